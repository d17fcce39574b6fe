// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime_api.h>
#include <fmt/format.h>
#include <nccl.h>

#include <string>
#include <utility>

/// What NCCL and CUDA return, turned into CommunicationError: "<action>: <description>".
namespace portolan {

/// `group` may be null; NCCL then knows less of the reason.
[[noreturn]] void throw_nccl_error(ncclResult_t status, ncclComm_t group,
                                   const std::string& action);
[[noreturn]] void throw_cuda_failure(cudaError_t status, const std::string& action);

template <typename... Arguments>
void check_nccl(ncclResult_t status, ncclComm_t group, fmt::format_string<Arguments...> action,
                Arguments&&... arguments) {
  if (status == ncclSuccess) return;
  throw_nccl_error(status, group, fmt::format(action, std::forward<Arguments>(arguments)...));
}

template <typename... Arguments>
void check_cuda_call(cudaError_t status, fmt::format_string<Arguments...> action,
                     Arguments&&... arguments) {
  if (status == cudaSuccess) return;
  throw_cuda_failure(status, fmt::format(action, std::forward<Arguments>(arguments)...));
}

}  // namespace portolan
