// SPDX-License-Identifier: Apache-2.0
#include "backends/cuda/cuda_status.hpp"

#include "core/error.hpp"

namespace portolan {

void throw_cuda_error(cudaError_t status, const std::string& action) {
  static_cast<void>(cudaGetLastError());
  const std::string message =
      fmt::format("{}: {}, {}", action, cudaGetErrorName(status), cudaGetErrorString(status));
  if (status == cudaErrorMemoryAllocation) throw OutOfMemoryError(message);
  throw Error(message);
}

void throw_cublas_error(cublasStatus_t status, const std::string& action) {
  const std::string message = fmt::format("{}: {}, {}", action, cublasLtGetStatusName(status),
                                          cublasLtGetStatusString(status));
  if (status == CUBLAS_STATUS_ALLOC_FAILED) throw OutOfMemoryError(message);
  throw Error(message);
}

}  // namespace portolan
