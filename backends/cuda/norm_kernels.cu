// SPDX-License-Identifier: Apache-2.0
#include "backends/cuda/norm_kernels.hpp"
#include "backends/cuda/vectors.cuh"

namespace portolan::cuda {
namespace {

constexpr int kWarp = 32;

/// In every lane, of the same bits: both sides of a pair add the same two numbers.
__device__ float warp_sum(float value) {
#pragma unroll
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
    value += __shfl_xor_sync(0xFFFFFFFFU, value, distance);
  }
  return value;
}

/// In every thread. `partials` is the block's, one of each warp, and not used for another sum.
__device__ float block_sum(float value, float* partials) {
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  value = warp_sum(value);
  if (lane == 0) partials[threadIdx.x / kWarp] = value;
  __syncthreads();
  return warp_sum(lane < warps ? partials[lane] : 0.0F);
}

/// A row in the registers of its block, in the dtype it is stored in: half the registers of f32.
template <typename T, typename P, int kVectors, bool kCentred>
__global__ void __launch_bounds__(kMaximumNormThreads) norm_rows(NormArguments arguments) {
  constexpr int kCount = kPerVector<T>;
  __shared__ float partials[2][kMaximumNormThreads / kWarp];
  const auto row = static_cast<std::int64_t>(blockIdx.x);
  const auto* const x = static_cast<const T*>(arguments.x) + row * arguments.x_stride;
  auto* const residual = arguments.residual == nullptr ? nullptr
                                                       : static_cast<T*>(arguments.residual) +
                                                             row * arguments.residual_stride;
  const auto* const x_bias = static_cast<const P*>(arguments.x_bias);
  const auto features = static_cast<int>(arguments.features);
  const auto column = [](int i) {
    return (i * static_cast<int>(blockDim.x) + static_cast<int>(threadIdx.x)) * kCount;
  };

  // All loads before the first store, which the compiler must not move them over.
  uint4 kept[kVectors] = {};
  uint4 before[kVectors] = {};
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    if (column(i) >= features) continue;
    kept[i] = load_vector(x + column(i));
    if (residual != nullptr) before[i] = load_vector(residual + column(i));
  }
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    if (residual == nullptr || column(i) >= features) continue;
    float values[kCount];
    float added[kCount];
    unpack<T>(before[i], values);
    unpack<T>(kept[i], added);
    if (x_bias != nullptr) {
      float shift[kCount];
      load_floats(x_bias + column(i), shift);
#pragma unroll
      for (int j = 0; j < kCount; ++j) added[j] += shift[j];
    }
#pragma unroll
    for (int j = 0; j < kCount; ++j) values[j] += added[j];
    kept[i] = pack<T>(values);  // the norm is that of the residual as it is stored
    store_vector(residual + column(i), kept[i]);
  }

  const auto count = static_cast<float>(features);
  float mean = 0.0F;
  if constexpr (kCentred) {
    float sum = 0.0F;
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {  // what lies behind the row's end is 0
      float values[kCount];
      unpack<T>(kept[i], values);
#pragma unroll
      for (int j = 0; j < kCount; ++j) sum += values[j];
    }
    mean = block_sum(sum, partials[0]) / count;
  }
  float squares = 0.0F;
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    if (column(i) >= features) continue;
    float values[kCount];
    unpack<T>(kept[i], values);
#pragma unroll
    for (int j = 0; j < kCount; ++j) squares += (values[j] - mean) * (values[j] - mean);
  }
  const float factor = 1.0F / sqrtf(block_sum(squares, partials[1]) / count + arguments.epsilon);

  const auto* const weight = static_cast<const P*>(arguments.weight);
  const auto* const bias = static_cast<const P*>(arguments.bias);
  auto* const out = static_cast<T*>(arguments.out) + row * arguments.out_stride;
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    if (column(i) >= features) continue;
    float values[kCount];
    float scale[kCount];
    unpack<T>(kept[i], values);
    load_floats(weight + column(i), scale);
#pragma unroll
    for (int j = 0; j < kCount; ++j) values[j] = (values[j] - mean) * factor * scale[j];
    if constexpr (kCentred) {
      float shift[kCount];
      load_floats(bias + column(i), shift);
#pragma unroll
      for (int j = 0; j < kCount; ++j) values[j] += shift[j];
    }
    store_vector(out + column(i), pack<T>(values));
  }
}

template <typename T, typename P, bool kCentred>
cudaError_t launch_typed(const NormArguments& arguments, cudaStream_t stream) {
  const NormPlan plan = norm_plan(arguments.features / kPerVector<T>);
  const auto blocks = static_cast<unsigned>(arguments.rows);
  const auto threads = static_cast<unsigned>(plan.threads);
  switch (plan.vectors_per_thread) {
    case 1:
      norm_rows<T, P, 1, kCentred><<<blocks, threads, 0, stream>>>(arguments);
      break;
    case 2:
      norm_rows<T, P, 2, kCentred><<<blocks, threads, 0, stream>>>(arguments);
      break;
    case 4:
      norm_rows<T, P, 4, kCentred><<<blocks, threads, 0, stream>>>(arguments);
      break;
    case 8:
      norm_rows<T, P, 8, kCentred><<<blocks, threads, 0, stream>>>(arguments);
      break;
    default:
      return cudaErrorInvalidValue;
  }
  return cudaGetLastError();
}

template <bool kCentred>
cudaError_t launch(const NormArguments& arguments, cudaStream_t stream) {
  return with_element(arguments.dtype, [&](auto element) {
    using T = decltype(element);
    if (arguments.parameter_dtype == DType::f32) {
      return launch_typed<T, float, kCentred>(arguments, stream);
    }
    if (arguments.parameter_dtype != arguments.dtype) return cudaErrorInvalidValue;
    return launch_typed<T, T, kCentred>(arguments, stream);
  });
}

}  // namespace

cudaError_t launch_rms_norm(const NormArguments& arguments, cudaStream_t stream) {
  return launch<false>(arguments, stream);
}

cudaError_t launch_layer_norm(const NormArguments& arguments, cudaStream_t stream) {
  return launch<true>(arguments, stream);
}

}  // namespace portolan::cuda
