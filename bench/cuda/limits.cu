// SPDX-License-Identifier: Apache-2.0
#include <cublasLt.h>

#include "bench/cuda/limits.hpp"
#include "bench/cuda/timing.cuh"
#include "tests/cuda/reference.cuh"

namespace portolan::cuda_bench {
namespace {

using cuda_testing::DeviceArray;

void check_cublas(cublasStatus_t status, const char* action) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  std::fprintf(stderr, "%s: %s\n", action, cublasLtGetStatusString(status));
  std::exit(1);
}

}  // namespace

double measure_product_rate() {
  constexpr std::uint64_t kSize = 8192;
  constexpr std::size_t kWorkspaceBytes = std::size_t{32} << 20;
  DeviceArray<std::uint16_t> a(kSize * kSize);
  DeviceArray<std::uint16_t> b(kSize * kSize);
  DeviceArray<std::uint16_t> c(kSize * kSize);
  DeviceArray<std::uint8_t> workspace(kWorkspaceBytes);
  cuda_testing::fill_random(a.data(), a.size(), cuda::AttentionElement::bf16, 1.0F, 1);
  cuda_testing::fill_random(b.data(), b.size(), cuda::AttentionElement::bf16, 1.0F, 2);

  cublasLtHandle_t library = nullptr;
  check_cublas(cublasLtCreate(&library), "starting cuBLASLt");
  cublasLtMatmulDesc_t operation = nullptr;
  check_cublas(cublasLtMatmulDescCreate(&operation, CUBLAS_COMPUTE_32F, CUDA_R_32F),
               "describing a product");
  // As weights are multiplied: both operands with the summed dimension dense.
  const cublasOperation_t transposed = CUBLAS_OP_T;
  check_cublas(cublasLtMatmulDescSetAttribute(operation, CUBLASLT_MATMUL_DESC_TRANSA, &transposed,
                                              sizeof transposed),
               "describing a product");
  cublasLtMatrixLayout_t layout = nullptr;
  check_cublas(cublasLtMatrixLayoutCreate(&layout, CUDA_R_16BF, kSize, kSize, kSize),
               "describing a matrix");
  cublasLtMatmulPreference_t preference = nullptr;
  check_cublas(cublasLtMatmulPreferenceCreate(&preference), "asking for an algorithm");
  check_cublas(
      cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                           &kWorkspaceBytes, sizeof kWorkspaceBytes),
      "asking for an algorithm");
  cublasLtMatmulHeuristicResult_t chosen{};
  int found = 0;
  check_cublas(cublasLtMatmulAlgoGetHeuristic(library, operation, layout, layout, layout, layout,
                                              preference, 1, &chosen, &found),
               "asking for an algorithm");
  if (found == 0) check_cublas(CUBLAS_STATUS_NOT_SUPPORTED, "asking for an algorithm");
  const float one = 1.0F;
  const float zero = 0.0F;
  const Times times = measure([&](int) {
    check_cublas(cublasLtMatmul(library, operation, &one, a.data(), layout, b.data(), layout, &zero,
                                c.data(), layout, c.data(), layout, &chosen.algo, workspace.data(),
                                kWorkspaceBytes, nullptr),
                 "multiplying");
  });
  cublasLtMatmulPreferenceDestroy(preference);
  cublasLtMatrixLayoutDestroy(layout);
  cublasLtMatmulDescDestroy(operation);
  cublasLtDestroy(library);
  return 2.0 * static_cast<double>(kSize * kSize * kSize) / times.median;
}

double measure_copy_rate() {
  constexpr std::size_t kBytes = std::size_t{2} << 30;
  DeviceArray<std::uint8_t> from(kBytes);
  DeviceArray<std::uint8_t> to(kBytes);
  cuda_testing::fill_random(reinterpret_cast<std::uint16_t*>(from.data()), kBytes / 2,
                            cuda::AttentionElement::bf16, 1.0F, 3);
  const Times times = measure([&](int) {
    check(cudaMemcpyAsync(to.data(), from.data(), kBytes, cudaMemcpyDeviceToDevice, nullptr),
          "copying");
  });
  return 2.0 * static_cast<double>(kBytes) / times.median;
}

}  // namespace portolan::cuda_bench
