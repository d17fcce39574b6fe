// SPDX-License-Identifier: Apache-2.0
#include "parallel/transport/nccl/nccl_status.hpp"

#include "core/error.hpp"

namespace portolan {

void throw_nccl_error(ncclResult_t status, ncclComm_t group, const std::string& action) {
  const char* const detail = ncclGetLastError(group);
  const std::string message = fmt::format("{}: {}", action, ncclGetErrorString(status));
  if (detail == nullptr || *detail == '\0') throw CommunicationError(message);
  throw CommunicationError(fmt::format("{}, {}", message, detail));
}

void throw_cuda_failure(cudaError_t status, const std::string& action) {
  static_cast<void>(cudaGetLastError());  // later calls shall not report it again
  throw CommunicationError(fmt::format("{}: {}", action, cudaGetErrorString(status)));
}

}  // namespace portolan
