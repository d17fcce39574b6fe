// SPDX-License-Identifier: Apache-2.0
#include <cmath>

#include "backends/cuda/activation_functions.hpp"
#include "backends/cuda/elementwise_kernels.hpp"
#include "backends/cuda/vectors.cuh"

namespace portolan::cuda {
namespace {

unsigned blocks_of(std::int64_t vectors) {
  return static_cast<unsigned>((vectors + kElementwiseThreads - 1) / kElementwiseThreads);
}

[[nodiscard]] __device__ std::uint32_t vector_index() {
  return blockIdx.x * kElementwiseThreads + threadIdx.x;
}

struct Silu {
  __device__ float operator()(float x) const { return silu(x); }
};
struct GeluErf {
  __device__ float operator()(float x) const { return gelu_erf(x); }
};
struct GeluTanh {
  __device__ float operator()(float x) const { return gelu_tanh(x); }
};

/// out = activation(x), or, with kGated, activation(x) * up.
template <typename T, typename Activation, bool kGated>
__global__ void __launch_bounds__(kElementwiseThreads)
    activate(ActivationArguments arguments, std::uint32_t vectors, std::uint32_t per_row) {
  constexpr int kCount = kPerVector<T>;
  const std::uint32_t index = vector_index();
  if (index >= vectors) return;
  const VectorPlace place(index, per_row);
  const auto row = static_cast<std::int64_t>(place.row);
  const std::int64_t column = std::int64_t{place.column} * kCount;
  float values[kCount];
  load_floats(static_cast<const T*>(arguments.x) + row * arguments.x_stride + column, values);
  float factors[kCount];
  if constexpr (kGated) {
    load_floats(static_cast<const T*>(arguments.up) + row * arguments.up_stride + column, factors);
  }
#pragma unroll
  for (int j = 0; j < kCount; ++j) {
    values[j] = Activation{}(values[j]);
    if constexpr (kGated) values[j] *= factors[j];
  }
  store_vector(static_cast<T*>(arguments.out) + row * arguments.out_stride + column,
               pack<T>(values));
}

template <typename Activation, bool kGated>
cudaError_t launch_activation(const ActivationArguments& arguments, cudaStream_t stream) {
  return with_element(arguments.dtype, [&](auto element) {
    using T = decltype(element);
    const std::int64_t per_row = arguments.features / kPerVector<T>;
    const std::int64_t vectors = arguments.rows * per_row;
    if (vectors > kMaximumVectors) return cudaErrorInvalidValue;
    activate<T, Activation, kGated><<<blocks_of(vectors), kElementwiseThreads, 0, stream>>>(
        arguments, static_cast<std::uint32_t>(vectors), static_cast<std::uint32_t>(per_row));
    return cudaGetLastError();
  });
}

__global__ void __launch_bounds__(kElementwiseThreads)
    copy_vectors(CopyPlan plan, const uint4* source, uint4* target) {
  const std::uint32_t index = vector_index();
  if (index >= plan.vectors) return;
  const VectorPlace place(index, plan.columns);
  target[plan.offset(1, place.row) + place.column] =
      source[plan.offset(0, place.row) + place.column];
}

/// Where a head of keys or values goes; null if it has no row.
template <typename T>
[[nodiscard]] __device__ T* cache_place(const RotaryArguments& arguments, std::int64_t token,
                                        std::int64_t head) {
  const std::int64_t first_value = arguments.heads - arguments.key_heads;
  const bool is_value = head >= first_value;
  const std::int64_t entry = token / arguments.entry_tokens;
  const std::int64_t row = arguments.cached_rows[2 * entry + 1] - arguments.entry_tokens +
                           (token - entry * arguments.entry_tokens);
  if (row < 0 || row >= arguments.capacity) return nullptr;
  const std::int64_t cache_head =
      is_value ? head - first_value : head - first_value + arguments.key_heads;
  return static_cast<T*>(is_value ? arguments.cached_values : arguments.cached_keys) +
         entry * arguments.cache_entry_stride + row * arguments.cache_row_stride +
         cache_head * arguments.cache_head_stride;
}

template <typename T, bool kStores>
__global__ void turn_heads(RotaryArguments arguments, float direction) {
  constexpr int kCount = kPerVector<T>;
  const auto token = static_cast<std::int64_t>(blockIdx.x);
  const auto head = static_cast<std::int64_t>(blockIdx.y * blockDim.y + threadIdx.y);
  if (head >= arguments.heads) return;
  const std::int64_t column = std::int64_t{threadIdx.x} * kCount;
  const std::int64_t position = arguments.positions[token * arguments.positions_stride];
  T* const first = static_cast<T*>(arguments.x) + token * arguments.token_stride +
                   head * arguments.head_stride + column;
  T* const second = first + arguments.head_dim / 2;
  T* first_target = first;
  if constexpr (kStores) {
    if (head >= arguments.heads - 2 * arguments.key_heads) {
      T* const place = cache_place<T>(arguments, token, head);
      if (place == nullptr) return;
      first_target = place + column;
      if (head >= arguments.heads - arguments.key_heads) {  // values are not turned
        store_vector(first_target, load_vector(first));
        store_vector(first_target + arguments.head_dim / 2, load_vector(second));
        return;
      }
    }
  }
  T* const second_target = first_target + arguments.head_dim / 2;
  float a[kCount];
  float b[kCount];
  float cosine[kCount];
  float sine[kCount];
  load_floats(first, a);
  load_floats(second, b);
  load_floats(arguments.cosines + position * arguments.cosine_stride + column, cosine);
  load_floats(arguments.sines + position * arguments.sine_stride + column, sine);
  float turned_a[kCount];
  float turned_b[kCount];
#pragma unroll
  for (int j = 0; j < kCount; ++j) {
    const float turn = direction * sine[j];
    turned_a[j] = a[j] * cosine[j] - b[j] * turn;
    turned_b[j] = b[j] * cosine[j] + a[j] * turn;
  }
  store_vector(first_target, pack<T>(turned_a));
  store_vector(second_target, pack<T>(turned_b));
}

__global__ void merge_rows(MergeArguments arguments, std::uint32_t rows) {
  const std::uint32_t row = blockIdx.x * blockDim.y + threadIdx.y;  // (batch, token, head)
  const bool exists = row < rows;
  const VectorPlace token_head(row, static_cast<std::uint32_t>(arguments.heads));
  const VectorPlace batch_token(token_head.row, static_cast<std::uint32_t>(arguments.tokens));
  const std::int64_t place =
      (batch_token.row * arguments.heads + token_head.column) * arguments.tokens +
      batch_token.column;
  const float mine = exists ? arguments.log_sum_exp[place] : 0.0F;
  const float other = exists ? arguments.block_log_sum_exp[place] : 0.0F;
  __syncthreads();  // all have read what one of them writes
  // Neither side has seen a key: nothing to merge, and the differences below would be NaN.
  if (!exists || (mine == -INFINITY && other == -INFINITY)) return;
  const float largest = fmaxf(mine, other);
  const float my_part = expf(mine - largest);
  const float other_part = expf(other - largest);
  const float total = my_part + other_part;
  const float my_weight = my_part / total;
  const float other_weight = other_part / total;
  const std::int64_t first = row * arguments.head_dim + threadIdx.x * kPerVector<float>;
  float values[kPerVector<float>];
  float added[kPerVector<float>];
  load_floats(arguments.out + first, values);
  load_floats(arguments.block_out + first, added);
#pragma unroll
  for (int j = 0; j < kPerVector<float>; ++j) {
    values[j] = values[j] * my_weight + added[j] * other_weight;
  }
  store_vector(arguments.out + first, pack<float>(values));
  if (threadIdx.x == 0) arguments.log_sum_exp[place] = largest + logf(total);
}

}  // namespace

cudaError_t launch_swiglu(const ActivationArguments& arguments, cudaStream_t stream) {
  return launch_activation<Silu, true>(arguments, stream);
}

cudaError_t launch_gelu(const ActivationArguments& arguments, GeluKind kind, cudaStream_t stream) {
  return kind == GeluKind::erf ? launch_activation<GeluErf, false>(arguments, stream)
                               : launch_activation<GeluTanh, false>(arguments, stream);
}

cudaError_t launch_copy(const CopyPlan& plan, const void* source, void* target,
                        cudaStream_t stream) {
  if (!plan.fits) return cudaErrorInvalidValue;
  copy_vectors<<<blocks_of(plan.vectors), kElementwiseThreads, 0, stream>>>(
      plan, static_cast<const uint4*>(source), static_cast<uint4*>(target));
  return cudaGetLastError();
}

cudaError_t launch_rotary_embedding(const RotaryArguments& arguments, cudaStream_t stream) {
  const RotaryPlan plan = rotary_plan(arguments.heads, arguments.head_dim, arguments.dtype);
  if (plan.columns == 0) return cudaErrorInvalidValue;
  const dim3 grid(static_cast<unsigned>(arguments.tokens), static_cast<unsigned>(plan.head_blocks));
  const dim3 threads(static_cast<unsigned>(plan.columns),
                     static_cast<unsigned>(plan.heads_per_block));
  return with_element(arguments.dtype, [&](auto element) {
    using T = decltype(element);
    const auto kernel =
        arguments.cached_keys == nullptr ? turn_heads<T, false> : turn_heads<T, true>;
    kernel<<<grid, threads, 0, stream>>>(arguments, arguments.inverse ? -1.0F : 1.0F);
    return cudaGetLastError();
  });
}

cudaError_t launch_merge_attention(const MergeArguments& arguments, cudaStream_t stream) {
  const RowTile tile = row_tile(arguments.head_dim / kPerVector<float>);
  const std::int64_t rows = arguments.batch * arguments.tokens * arguments.heads;
  if (tile.columns == 0 || rows > kMaximumVectors) return cudaErrorInvalidValue;
  const dim3 threads(static_cast<unsigned>(tile.columns), static_cast<unsigned>(tile.rows));
  merge_rows<<<static_cast<unsigned>((rows + tile.rows - 1) / tile.rows), threads, 0, stream>>>(
      arguments, static_cast<std::uint32_t>(rows));
  return cudaGetLastError();
}

}  // namespace portolan::cuda
