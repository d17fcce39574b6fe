// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "attention/cuda/flash_attention.hpp"

/// Attention of 1 to 16 queries over a long cache of keys and values, limited by reading it. The
/// cache is cut into splits so that all of the GPU reads, each key and value once; partial results
/// are merged in order by a second kernel (decode_plan.hpp). Compute capability 8.0 and later.
namespace portolan::cuda {

/// Null if served, else the reason why not.
[[nodiscard]] const char* decode_unsupported_reason(const AttentionShape& shape);
/// Bytes of device memory that a call needs as `workspace`, 256-byte aligned.
[[nodiscard]] std::size_t decode_workspace_bytes(const AttentionShape& shape);
/// Like attention_forward.
[[nodiscard]] cudaError_t attention_decode(const AttentionForwardArguments& arguments,
                                           void* workspace, cudaStream_t stream);

}  // namespace portolan::cuda
