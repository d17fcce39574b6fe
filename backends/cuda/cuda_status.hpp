// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cublasLt.h>
#include <cuda_runtime_api.h>
#include <fmt/format.h>

#include <string>
#include <utility>

/// What CUDA and cuBLASLt return, turned into exceptions.
namespace portolan {

/// "<action>: <name of the error>, <its description>", as OutOfMemoryError where memory is missing,
/// else as Error. Also takes the error from CUDA, which would show it again at a later call.
[[noreturn]] void throw_cuda_error(cudaError_t status, const std::string& action);
[[noreturn]] void throw_cublas_error(cublasStatus_t status, const std::string& action);

/// Throws unless the call succeeded; the action, a formatted text, says what was tried.
template <typename... Arguments>
void check_cuda(cudaError_t status, fmt::format_string<Arguments...> action,
                Arguments&&... arguments) {
  if (status == cudaSuccess) return;
  throw_cuda_error(status, fmt::format(action, std::forward<Arguments>(arguments)...));
}

template <typename... Arguments>
void check_cublas(cublasStatus_t status, fmt::format_string<Arguments...> action,
                  Arguments&&... arguments) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  throw_cublas_error(status, fmt::format(action, std::forward<Arguments>(arguments)...));
}

}  // namespace portolan
