// SPDX-License-Identifier: Apache-2.0
#include "backends/cuda/quantized_kernels.hpp"
#include "backends/cuda/vectors.cuh"

namespace portolan::cuda {
namespace {

constexpr int kWarp = 32;
constexpr int kWarps = QuantizedPlace::kThreads / kWarp;

[[nodiscard]] __device__ std::uint32_t part(const uint4& words, int j) {
  return j == 0 ? words.x : j == 1 ? words.y : j == 2 ? words.z : words.w;
}

/// Steps of a group of inputs.
constexpr int kGroupSteps = static_cast<int>(kQuantizedGroup) / kQuantizedStep;

/// The first of a step's `count` rows of words.
[[nodiscard]] __device__ const std::uint32_t* words_of_step(const std::byte* panel,
                                                            const QuantizedPanels& weight,
                                                            std::int64_t step, int count) {
  const std::byte* const group = panel + weight.place.words(step / kGroupSteps);
  return reinterpret_cast<const std::uint32_t*>(group) + step % kGroupSteps * count * kPanelOutputs;
}

/// Adds a step's inputs times an output's integers to the rows' sums.
template <Quantization kQuantization, int kRows>
struct Step;

template <int kRows>
struct Step<Quantization::int8, kRows> {
  uint4 words[2];

  __device__ void load(const std::byte* panel, const QuantizedPanels& weight, std::int64_t step,
                       int output) {
    const auto* const row = words_of_step(panel, weight, step, 2) + output;
    words[0] = load_vector(row);
    words[1] = load_vector(row + kPanelOutputs);
  }
  __device__ void add(const float (&x)[kRows][kQuantizedStep], float (&sums)[kRows][4]) const {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
#pragma unroll
      for (int i = 0; i < kQuantizedStep; ++i) {
        const std::uint32_t word = part(words[i / 4], j);
        const auto integer = static_cast<float>(static_cast<signed char>(word >> (i % 4 * 8)));
#pragma unroll
        for (int row = 0; row < kRows; ++row) sums[row][j] += x[row][i] * integer;
      }
    }
  }
};

template <int kRows>
struct Step<Quantization::int4, kRows> {
  uint4 words;
  std::uint32_t codes;  // of the factors of four outputs

  __device__ void load(const std::byte* panel, const QuantizedPanels& weight, std::int64_t step,
                       int output) {
    words = load_vector(words_of_step(panel, weight, step, 1) + output);
    codes = *reinterpret_cast<const std::uint32_t*>(
        panel + weight.place.factors(step / kGroupSteps) + output);
  }
  __device__ void add(const float (&x)[kRows][kQuantizedStep], float (&sums)[kRows][4]) const {
    // Two's complement of 4 bits with its highest bit turned over is the number plus 8, in a byte
    // of its own, which is what the GPU converts fastest.
    constexpr std::uint32_t kNibbles = 0x0F0F0F0FU;
    constexpr std::uint32_t kSigns = 0x08080808U;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const std::uint32_t word = part(words, j);
      const std::uint32_t halves[2] = {(word & kNibbles) ^ kSigns,
                                       ((word >> 4) & kNibbles) ^ kSigns};
      float group[kRows] = {};
#pragma unroll
      for (int i = 0; i < kQuantizedStep; ++i) {
        const auto shifted = static_cast<unsigned char>(halves[i % 2] >> (i / 2 * 8));
        const float integer = static_cast<float>(shifted) - 8.0F;
#pragma unroll
        for (int row = 0; row < kRows; ++row) group[row] += x[row][i] * integer;
      }
      const float factor = int4_factor(static_cast<std::uint8_t>(codes >> (8 * j)));
#pragma unroll
      for (int row = 0; row < kRows; ++row) sums[row][j] += factor * group[row];
    }
  }
};

template <typename T, Quantization kQuantization, int kRows>
__global__ void __launch_bounds__(QuantizedPlace::kThreads)
    multiply_rows(QuantizedArguments arguments) {
  __shared__ float partials[kWarps][kRows][QuantizedPlace::kOutputs];
  const auto thread = static_cast<int>(threadIdx.x);
  const QuantizedPlace place(blockIdx.x, thread, kPanelOutputs);
  const std::byte* const panel = arguments.weight.data + place.panel * arguments.weight.place.bytes;
  const auto* const x = static_cast<const T*>(arguments.x);
  const std::int64_t steps = arguments.weight.in_features / kQuantizedStep;
  float sums[kRows][4] = {};
  const auto add = [&](const Step<kQuantization, kRows>& weights, std::int64_t step) {
    float values[kRows][kQuantizedStep];
#pragma unroll
    for (int row = 0; row < kRows; ++row) {
      // Rows that there are not repeat the last one, and are dropped at the end.
      const std::int64_t source = row < arguments.rows ? row : arguments.rows - 1;
      load_floats(x + source * arguments.x_stride + step * kQuantizedStep, values[row]);
    }
    weights.add(values, sums);
  };
  // Loads of several steps before the first is used: few threads have to keep the memory busy.
  constexpr int kAhead = kRows <= 2 ? 4 : 2;
  std::int64_t step = place.lane;
  for (; step - place.lane + kAhead * QuantizedPlace::kLanes <= steps;
       step += kAhead * QuantizedPlace::kLanes) {
    Step<kQuantization, kRows> weights[kAhead];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      weights[i].load(panel, arguments.weight, step + i * QuantizedPlace::kLanes, place.output);
    }
#pragma unroll
    for (int i = 0; i < kAhead; ++i) add(weights[i], step + i * QuantizedPlace::kLanes);
  }
  for (; step < steps; step += QuantizedPlace::kLanes) {
    Step<kQuantization, kRows> weights;
    weights.load(panel, arguments.weight, step, place.output);
    add(weights, step);
  }
#pragma unroll
  for (int row = 0; row < kRows; ++row) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
#pragma unroll
      for (int distance = kWarp / 2; distance >= QuantizedPlace::kQuads; distance /= 2) {
        sums[row][j] += __shfl_xor_sync(0xFFFFFFFFU, sums[row][j], distance);
      }
      if (thread % kWarp < QuantizedPlace::kQuads) {
        partials[thread / kWarp][row][thread % kWarp * 4 + j] = sums[row][j];
      }
    }
  }
  __syncthreads();
  const int row = thread / QuantizedPlace::kOutputs;
  const int within = thread % QuantizedPlace::kOutputs;
  const std::int64_t output = std::int64_t{blockIdx.x} * QuantizedPlace::kOutputs + within;
  if (row >= kRows || row >= arguments.rows || output >= arguments.out_features) return;
  float sum = 0.0F;
#pragma unroll
  for (int warp = 0; warp < kWarps; ++warp) sum += partials[warp][row][within];
  sum *= reinterpret_cast<const float*>(panel)[output % kPanelOutputs];
  const std::int64_t place_out = row * arguments.out_stride + output;
  const auto store = [&](auto* out) {
    using Out = std::remove_pointer_t<decltype(out)>;
    if (arguments.accumulate) sum += to_float(out[place_out]);
    out[place_out] = from_float<Out>(sum);
  };
  if (arguments.out_dtype == DType::f32) {
    store(static_cast<float*>(arguments.out));
  } else {
    store(static_cast<T*>(arguments.out));
  }
}

template <typename T, Quantization kQuantization>
cudaError_t launch_typed(const QuantizedArguments& arguments, cudaStream_t stream) {
  const auto blocks = static_cast<unsigned>(
      (arguments.out_features + QuantizedPlace::kOutputs - 1) / QuantizedPlace::kOutputs);
  constexpr unsigned kThreads = QuantizedPlace::kThreads;
  if (arguments.rows == 1) {
    multiply_rows<T, kQuantization, 1><<<blocks, kThreads, 0, stream>>>(arguments);
  } else if (arguments.rows <= 2) {
    multiply_rows<T, kQuantization, 2><<<blocks, kThreads, 0, stream>>>(arguments);
  } else if (arguments.rows <= 4) {
    multiply_rows<T, kQuantization, 4><<<blocks, kThreads, 0, stream>>>(arguments);
  } else if (arguments.rows <= kQuantizedRows) {
    multiply_rows<T, kQuantization, kQuantizedRows><<<blocks, kThreads, 0, stream>>>(arguments);
  } else {
    return cudaErrorInvalidValue;
  }
  return cudaGetLastError();
}

/// One word: some inputs of one output.
template <typename T>
__global__ void __launch_bounds__(kElementwiseThreads)
    widen_words(QuantizedPanels weight, T* out, std::int64_t stride, std::uint32_t words) {
  const std::uint32_t index = blockIdx.x * kElementwiseThreads + threadIdx.x;
  if (index >= words) return;
  const auto per_word = static_cast<std::uint32_t>(quantized_per_word(weight.quantization));
  const auto inputs = static_cast<std::uint32_t>(weight.in_features);
  const VectorPlace output(index, kPanelOutputs);
  const VectorPlace word(output.row, (inputs + per_word - 1) / per_word);
  const std::byte* const panel = weight.data + word.row * weight.place.bytes;
  const VectorPlace group(word.column, static_cast<std::uint32_t>(kQuantizedGroup) / per_word);
  const auto* const rows =
      reinterpret_cast<const std::uint32_t*>(panel + weight.place.words(group.row));
  const std::uint32_t integers = rows[group.column * kPanelOutputs + output.column];
  float factor = 1.0F;
  if (weight.quantization == Quantization::int4) {
    factor = int4_factor(
        static_cast<std::uint8_t>(panel[weight.place.factors(group.row) + output.column]));
  }
  T* const to = out + std::int64_t{word.row} * kPanelOutputs + output.column;
  for (std::uint32_t i = 0; i < per_word; ++i) {
    const std::uint32_t input = word.column * per_word + i;
    if (input >= inputs) return;
    const int integer = quantized_in_word(integers, i, weight.quantization);
    to[input * stride] = from_float<T>(factor * static_cast<float>(integer));
  }
}

template <typename T>
__global__ void __launch_bounds__(kElementwiseThreads)
    scale_columns(ScaleArguments arguments, std::uint32_t elements) {
  const std::uint32_t index = blockIdx.x * kElementwiseThreads + threadIdx.x;
  if (index >= elements) return;
  const VectorPlace place(index, static_cast<std::uint32_t>(arguments.columns));
  const std::byte* const panel =
      arguments.weight.data + place.column / kPanelOutputs * arguments.weight.place.bytes;
  float value = arguments.sums[place.row * arguments.sums_stride + place.column] *
                reinterpret_cast<const float*>(panel)[place.column % kPanelOutputs];
  T& to = static_cast<T*>(arguments.out)[place.row * arguments.out_stride + place.column];
  if (arguments.accumulate) value += to_float(to);
  to = from_float<T>(value);
}

unsigned blocks_of(std::int64_t threads) {
  return static_cast<unsigned>((threads + kElementwiseThreads - 1) / kElementwiseThreads);
}

}  // namespace

cudaError_t launch_quantized_rows(const QuantizedArguments& arguments, cudaStream_t stream) {
  return with_element(arguments.dtype, [&](auto element) {
    using T = decltype(element);
    return arguments.weight.quantization == Quantization::int4
               ? launch_typed<T, Quantization::int4>(arguments, stream)
               : launch_typed<T, Quantization::int8>(arguments, stream);
  });
}

cudaError_t launch_widen(const QuantizedPanels& weight, std::int64_t panels, void* out,
                         std::int64_t stride, DType dtype, cudaStream_t stream) {
  const std::int64_t per_word = quantized_per_word(weight.quantization);
  const std::int64_t words =
      panels * ((weight.in_features + per_word - 1) / per_word) * kPanelOutputs;
  if (words > kMaximumVectors) return cudaErrorInvalidValue;
  return with_element(dtype, [&](auto element) {
    using T = decltype(element);
    widen_words<T><<<blocks_of(words), kElementwiseThreads, 0, stream>>>(
        weight, static_cast<T*>(out), stride, static_cast<std::uint32_t>(words));
    return cudaGetLastError();
  });
}

cudaError_t launch_scale(const ScaleArguments& arguments, cudaStream_t stream) {
  const std::int64_t elements = arguments.rows * arguments.columns;
  if (elements > kMaximumVectors) return cudaErrorInvalidValue;
  return with_element(arguments.out_dtype, [&](auto element) {
    scale_columns<decltype(element)><<<blocks_of(elements), kElementwiseThreads, 0, stream>>>(
        arguments, static_cast<std::uint32_t>(elements));
    return cudaGetLastError();
  });
}

}  // namespace portolan::cuda
