// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>

#include "attention/cuda/attention_arguments.hpp"

/// The two kernels of the backward pass, in a source file each: they take long to compile.
namespace portolan::cuda::sm90 {

[[nodiscard]] std::size_t backward_keys_workspace_bytes(const AttentionShape& shape);
[[nodiscard]] std::size_t backward_queries_workspace_bytes(const AttentionShape& shape);

/// dK and dV.
[[nodiscard]] cudaError_t backward_keys(const AttentionBackwardArguments& arguments,
                                        void* workspace, cudaStream_t stream);
/// dQ.
[[nodiscard]] cudaError_t backward_queries(const AttentionBackwardArguments& arguments,
                                           void* workspace, cudaStream_t stream);

}  // namespace portolan::cuda::sm90
