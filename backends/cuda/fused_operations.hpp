// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime_api.h>

#include "core/backend.hpp"
#include "core/gelu_kind.hpp"
#include "core/tensor.hpp"

/// Operations of a Backend as one CUDA kernel each, which moves vectors of 16 bytes and touches
/// each element once. Arguments and results are those of the Backend's functions of the same names.
/// Each returns false, with nothing done, where rows are no whole, aligned vectors or too long: the
/// caller has a slower kernel for all shapes. Throws Error if a launch fails.
namespace portolan::cuda {

/// rms_norm, or, with a `residual`, add_rms_norm.
[[nodiscard]] bool try_rms_norm(const Tensor& x, const Tensor& residual, const Tensor& weight,
                                float epsilon, const Tensor& out, cudaStream_t stream);
/// layer_norm, or, with a `residual`, add_layer_norm; `x_bias` may be undefined.
[[nodiscard]] bool try_layer_norm(const Tensor& x, const Tensor& x_bias, const Tensor& residual,
                                  const Tensor& weight, const Tensor& bias, float epsilon,
                                  const Tensor& out, cudaStream_t stream);
[[nodiscard]] bool try_rotary_embedding(const Tensor& x, const Tensor& positions,
                                        const Tensor& cosines, const Tensor& sines, bool inverse,
                                        cudaStream_t stream);
[[nodiscard]] bool try_rotary_store_cache_rows(const Tensor& x, const Tensor& positions,
                                               const Tensor& cosines, const Tensor& sines,
                                               const CacheRows& cache, cudaStream_t stream);
[[nodiscard]] bool try_swiglu(const Tensor& gate, const Tensor& up, const Tensor& out,
                              cudaStream_t stream);
[[nodiscard]] bool try_gelu(const Tensor& x, const Tensor& out, GeluKind kind, cudaStream_t stream);
[[nodiscard]] bool try_merge_attention(const Tensor& block_out, const Tensor& block_log_sum_exp,
                                       const Tensor& out, const Tensor& log_sum_exp,
                                       cudaStream_t stream);
/// Between tensors of one dtype.
[[nodiscard]] bool try_copy(const Tensor& source, const Tensor& out, cudaStream_t stream);

}  // namespace portolan::cuda
