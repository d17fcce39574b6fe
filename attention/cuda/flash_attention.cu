// SPDX-License-Identifier: Apache-2.0
#include "attention/cuda/flash_attention.hpp"
#include "attention/cuda/sm80_kernels.hpp"
#include "attention/cuda/sm90_kernels.hpp"
#include "attention/cuda/unsupported_reason.hpp"

namespace portolan::cuda {

const char* forward_unsupported_reason(AttentionArchitecture architecture,
                                       const AttentionShape& shape) {
  if (architecture == AttentionArchitecture::sm80) return sm80_unsupported_reason(shape);
  if (const char* reason = whole_pass_unsupported_reason(shape)) return reason;
  return sm90::forward_unsupported_reason(shape);
}

const char* backward_unsupported_reason(AttentionArchitecture architecture,
                                        const AttentionShape& shape) {
  if (architecture == AttentionArchitecture::sm80) return sm80_unsupported_reason(shape);
  if (const char* reason = whole_pass_unsupported_reason(shape)) return reason;
  return sm90::backward_unsupported_reason(shape);
}

std::size_t forward_workspace_bytes(AttentionArchitecture architecture,
                                    const AttentionShape& shape) {
  return architecture == AttentionArchitecture::sm90 ? sm90::forward_workspace_bytes(shape) : 0;
}

std::size_t backward_workspace_bytes(AttentionArchitecture architecture,
                                     const AttentionShape& shape) {
  return architecture == AttentionArchitecture::sm90 ? sm90::backward_workspace_bytes(shape) : 0;
}

cudaError_t attention_forward(AttentionArchitecture architecture,
                              const AttentionForwardArguments& arguments, void* workspace,
                              cudaStream_t stream) {
  if (forward_unsupported_reason(architecture, arguments.shape) != nullptr ||
      arguments.output == AttentionOutput::f32_sum) {
    return cudaErrorInvalidValue;
  }
  if (architecture == AttentionArchitecture::sm80) return sm80::forward(arguments, stream);
  return sm90::forward(arguments, workspace, stream);
}

cudaError_t attention_backward(AttentionArchitecture architecture,
                               const AttentionBackwardArguments& arguments, void* workspace,
                               cudaStream_t stream) {
  if (backward_unsupported_reason(architecture, arguments.shape) != nullptr) {
    return cudaErrorInvalidValue;
  }
  if (architecture == AttentionArchitecture::sm80) return sm80::backward(arguments, stream);
  return sm90::backward(arguments, workspace, stream);
}

}  // namespace portolan::cuda
