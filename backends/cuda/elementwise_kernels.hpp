// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "backends/cuda/vector_layout.hpp"
#include "core/dtype.hpp"
#include "core/gelu_kind.hpp"

/// Kernels that treat each vector of 16 bytes for itself. They enqueue on `stream` and return.
namespace portolan::cuda {

/// Matrices [rows, features] of `dtype`, their rows whole vectors (vector_layout.hpp) `*_stride`
/// elements apart.
struct ActivationArguments {
  const void* x = nullptr;   ///< the gate of SwiGLU
  const void* up = nullptr;  ///< SwiGLU only
  void* out = nullptr;       ///< may be x or up
  std::int64_t x_stride = 0;
  std::int64_t up_stride = 0;
  std::int64_t out_stride = 0;
  std::int64_t rows = 0;
  std::int64_t features = 0;
  DType dtype = DType::f32;
};

/// Backend::swiglu.
[[nodiscard]] cudaError_t launch_swiglu(const ActivationArguments& arguments, cudaStream_t stream);
/// Backend::gelu.
[[nodiscard]] cudaError_t launch_gelu(const ActivationArguments& arguments, GeluKind kind,
                                      cudaStream_t stream);

/// Backend::copy where `plan` fits.
[[nodiscard]] cudaError_t launch_copy(const CopyPlan& plan, const void* source, void* target,
                                      cudaStream_t stream);

struct RotaryArguments {
  void* x = nullptr;  ///< [tokens, heads, head_dim], dense in its last dimension
  const std::int32_t* positions = nullptr;
  const float* cosines = nullptr;  ///< [length, head_dim / 2], rows of whole vectors
  const float* sines = nullptr;
  std::int64_t token_stride = 0;  ///< in elements, as all strides; multiples of a vector
  std::int64_t head_stride = 0;
  std::int64_t positions_stride = 0;
  std::int64_t cosine_stride = 0;
  std::int64_t sine_stride = 0;
  std::int64_t tokens = 0;
  std::int64_t heads = 0;
  std::int64_t head_dim = 0;
  bool inverse = false;
  DType dtype = DType::f32;

  /// Null, or Backend::rotary_store_cache_rows: the last key_heads heads of x are values, those
  /// before them keys, and both go to [batch, capacity, key_heads, head_dim] of equal strides.
  void* cached_keys = nullptr;
  void* cached_values = nullptr;
  const std::int32_t* cached_rows = nullptr;  ///< [batch, 2]
  std::int64_t key_heads = 0;
  std::int64_t capacity = 0;
  std::int64_t entry_tokens = 0;  ///< of x, per batch entry
  std::int64_t cache_entry_stride = 0;
  std::int64_t cache_row_stride = 0;
  std::int64_t cache_head_stride = 0;
};

/// Backend::rotary_embedding or rotary_store_cache_rows; cudaErrorInvalidValue if rotary_plan has
/// no place for a head.
[[nodiscard]] cudaError_t launch_rotary_embedding(const RotaryArguments& arguments,
                                                  cudaStream_t stream);

/// All contiguous, aligned to vectors.
struct MergeArguments {
  const float* block_out = nullptr;          ///< [batch, tokens, heads, head_dim]
  const float* block_log_sum_exp = nullptr;  ///< [batch, heads, tokens]
  float* out = nullptr;
  float* log_sum_exp = nullptr;
  std::int64_t batch = 0;
  std::int64_t tokens = 0;
  std::int64_t heads = 0;
  std::int64_t head_dim = 0;  ///< whole vectors
};

/// Backend::merge_attention; cudaErrorInvalidValue if row_tile has no place for a head.
[[nodiscard]] cudaError_t launch_merge_attention(const MergeArguments& arguments,
                                                 cudaStream_t stream);

}  // namespace portolan::cuda
