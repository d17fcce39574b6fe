// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime_api.h>

#include "backends/cuda/cublaslt_matmul.hpp"
#include "core/allocator.hpp"
#include "core/tensor.hpp"
#include "core/weight.hpp"

namespace portolan::cuda {

/// Products with integer weights. A few rows are multiplied by the integers themselves. For more,
/// some panels at a time are made numbers of the rows' dtype without their scales, which is exact,
/// and multiplied by cuBLASLt into f32 sums, which the scales multiply.
class QuantizedMatmul {
 public:
  /// All outlive the object; memory of `allocator` is reused in the order of `stream`.
  QuantizedMatmul(cudaStream_t stream, CachingAllocator& allocator, CublasLtMatmul& products)
      : stream_(stream), allocator_(allocator), products_(products) {}

  /// out = x W^T, or out += x W^T, as Backend::matmul. False, and nothing done, for weights that
  /// are no integers and where cuBLASLt does not offer the product.
  [[nodiscard]] bool run(const Tensor& x, const Weight& weight, const Tensor& out,
                         bool accumulate) const;

 private:
  /// Of the panels made numbers at a time; larger ones than a GPU's cache win nothing.
  static constexpr std::int64_t kWideBytes = std::int64_t{32} << 20;
  /// Rows whose sums are in scratch at a time.
  static constexpr std::int64_t kRows = 2048;

  [[nodiscard]] bool run_few_rows(const Tensor& x, const Weight& weight, const Tensor& out,
                                  bool accumulate) const;
  [[nodiscard]] bool run_widened(const Tensor& x, const Weight& weight, const Tensor& out,
                                 bool accumulate) const;

  cudaStream_t stream_;
  CachingAllocator& allocator_;
  CublasLtMatmul& products_;
};

}  // namespace portolan::cuda
