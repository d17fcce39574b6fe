// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "attention/cuda/flash_attention.hpp"

/// Attention kernels for compute capability 9.0: tensor memory accelerator (TMA) copies and
/// warpgroup matrix products (wgmma). bf16 and f16; head_dim any multiple of 8 up to 128; causal,
/// window, packed sequences, any lengths. Called by flash_attention.cu; see flash_attention.hpp for
/// what the arguments mean.
namespace portolan::cuda::sm90 {

[[nodiscard]] const char* forward_unsupported_reason(const AttentionShape& shape);
[[nodiscard]] const char* backward_unsupported_reason(const AttentionShape& shape);

[[nodiscard]] std::size_t forward_workspace_bytes(const AttentionShape& shape);
[[nodiscard]] std::size_t backward_workspace_bytes(const AttentionShape& shape);

[[nodiscard]] cudaError_t forward(const AttentionForwardArguments& arguments, void* workspace,
                                  cudaStream_t stream);
[[nodiscard]] cudaError_t backward(const AttentionBackwardArguments& arguments, void* workspace,
                                   cudaStream_t stream);

}  // namespace portolan::cuda::sm90
