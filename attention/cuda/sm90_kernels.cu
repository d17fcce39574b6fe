// SPDX-License-Identifier: Apache-2.0
#include <cstddef>
#include <cstdint>
#include <limits>

#include "attention/cuda/sm90_backward.hpp"
#include "attention/cuda/sm90_kernels.hpp"

namespace portolan::cuda::sm90 {
namespace {

const char* unsupported_reason(const AttentionShape& shape) {
  constexpr std::int64_t kMostTokens = std::int64_t{1} << 30;
  if (shape.head_dim < 8 || shape.head_dim > 128 || shape.head_dim % 8 != 0) {
    return "head_dim is not a multiple of 8 from 8 to 128";
  }
  if (shape.key_tokens < 1) {
    return "there are no keys";  // whose tensor map the driver would refuse
  }
  if (shape.key_heads < 1 || shape.heads % shape.key_heads != 0) {
    return "the query heads are not a multiple of the key heads";
  }
  if (!(shape.scale > 0.0F)) {
    return "the scale is not positive";  // the largest raw score stands for the largest scaled one
  }
  if (shape.query_tokens > kMostTokens || shape.key_tokens > kMostTokens ||
      shape.batch * shape.heads > (std::numeric_limits<int>::max() >> 1) /
                                      (shape.query_tokens / 64 + shape.key_tokens / 64 + 1)) {
    return "too many tokens or heads for 32-bit indices";
  }
  return nullptr;
}

}  // namespace

const char* forward_unsupported_reason(const AttentionShape& shape) {
  return unsupported_reason(shape);
}
const char* backward_unsupported_reason(const AttentionShape& shape) {
  return unsupported_reason(shape);
}

std::size_t backward_workspace_bytes(const AttentionShape& shape) {
  return backward_keys_workspace_bytes(shape) + backward_queries_workspace_bytes(shape);
}

cudaError_t backward(const AttentionBackwardArguments& arguments, void* workspace,
                     cudaStream_t stream) {
  if (backward_unsupported_reason(arguments.shape) != nullptr) {
    return cudaErrorInvalidValue;
  }
  const cudaError_t status = backward_keys(arguments, workspace, stream);
  if (status != cudaSuccess) {
    return status;
  }
  return backward_queries(
      arguments,
      static_cast<std::byte*>(workspace) + backward_keys_workspace_bytes(arguments.shape), stream);
}

}  // namespace portolan::cuda::sm90
