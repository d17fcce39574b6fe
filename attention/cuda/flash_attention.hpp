// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>

#include "attention/cuda/attention_arguments.hpp"

/// Attention kernels in CUDA C++ behind plain launch functions: device pointers, sizes and a stream
/// in, a cudaError_t out. To compile they need the CUDA toolkit and a few headers, to link nothing
/// else of this project.
namespace portolan::cuda {

/// A family of kernels for one kind of tensor core.
enum class AttentionArchitecture {
  sm80,  ///< mma.sync and cp.async: compute capability 8.0 and every later one
  sm90,  ///< wgmma and TMA: compute capability 9.0 exactly
};

/// Null if the kernels of that architecture serve the shape, else the reason why not.
[[nodiscard]] const char* forward_unsupported_reason(AttentionArchitecture architecture,
                                                     const AttentionShape& shape);
[[nodiscard]] const char* backward_unsupported_reason(AttentionArchitecture architecture,
                                                      const AttentionShape& shape);

/// Bytes of device memory that a call needs as `workspace`, 256-byte aligned; its contents do not
/// matter before or after.
[[nodiscard]] std::size_t forward_workspace_bytes(AttentionArchitecture architecture,
                                                  const AttentionShape& shape);
[[nodiscard]] std::size_t backward_workspace_bytes(AttentionArchitecture architecture,
                                                   const AttentionShape& shape);

/// Enqueue on `stream` and return. The same arguments give the same bits.
[[nodiscard]] cudaError_t attention_forward(AttentionArchitecture architecture,
                                            const AttentionForwardArguments& arguments,
                                            void* workspace, cudaStream_t stream);
[[nodiscard]] cudaError_t attention_backward(AttentionArchitecture architecture,
                                             const AttentionBackwardArguments& arguments,
                                             void* workspace, cudaStream_t stream);

}  // namespace portolan::cuda
