// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace portolan::cuda_bench {

/// delta[b, h, i] = sum over D of out * grad_out, which a gradient needs beside the kernels that
/// are measured; dense bf16 [batch, tokens, heads, head_dim]. Counted in, as other libraries do.
cudaError_t enqueue_delta(const void* out, const void* grad_out, float* delta, std::int64_t batch,
                          std::int64_t tokens, std::int64_t heads, std::int64_t head_dim,
                          bool is_bf16, cudaStream_t stream);

}  // namespace portolan::cuda_bench
