// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "attention/cuda/flash_attention.hpp"

/// Attention kernels for compute capability 8.0 and later: mma.sync, ldmatrix and cp.async. bf16
/// and f16; head_dim 64 and 128; causal, window, packed sequences, any lengths; no workspace.
/// Called by flash_attention.cu for shapes that sm80_unsupported_reason (unsupported_reason.hpp)
/// admits; see flash_attention.hpp for what the arguments mean.
namespace portolan::cuda::sm80 {

[[nodiscard]] cudaError_t forward(const AttentionForwardArguments& arguments, cudaStream_t stream);
[[nodiscard]] cudaError_t backward(const AttentionBackwardArguments& arguments,
                                   cudaStream_t stream);

}  // namespace portolan::cuda::sm80
