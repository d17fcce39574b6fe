// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "core/dtype.hpp"
#include "core/panels.hpp"
#include "core/quantization.hpp"

namespace portolan::cuda {

/// kPanelWidth, in the integers that kernels compute with.
inline constexpr int kPanelOutputs = static_cast<int>(kPanelWidth);

/// Integer weights in panels (core/panels.hpp), and where the parts of one lie.
struct QuantizedPanels {
  const std::byte* data = nullptr;
  QuantizedPanel place{0, Quantization::int8};
  std::int64_t in_features = 0;
  Quantization quantization = Quantization::int8;
};

/// Products of a few rows, as decoding has them.
struct QuantizedArguments {
  QuantizedPanels weight;   ///< in_features a multiple of kQuantizedStep
  const void* x = nullptr;  ///< [rows, in], rows of whole vectors (vector_layout.hpp)
  void* out = nullptr;      ///< [rows, out], of x's dtype or f32
  std::int64_t x_stride = 0;
  std::int64_t out_stride = 0;
  std::int64_t rows = 0;
  std::int64_t out_features = 0;
  DType dtype = DType::f32;
  DType out_dtype = DType::f32;
  bool accumulate = false;
};

/// out = x W^T, or out += that. Each weight is read once; sums are in f32, in an order that depends
/// on the inputs alone, and the scale of an output multiplies its sum. cudaErrorInvalidValue for
/// more than kQuantizedRows rows.
[[nodiscard]] cudaError_t launch_quantized_rows(const QuantizedArguments& arguments,
                                                cudaStream_t stream);

/// Products of many rows are made of numbers: out[k, 64 p + j] = q g of input k and output j of
/// panel p, without the scale, which is exact in `dtype`. out [in, 64 panels], rows `stride` apart.
[[nodiscard]] cudaError_t launch_widen(const QuantizedPanels& weight, std::int64_t panels,
                                       void* out, std::int64_t stride, DType dtype,
                                       cudaStream_t stream);

/// out[r, c] = sums[r, c] * scale of output c, or += that.
struct ScaleArguments {
  QuantizedPanels weight;       ///< the first column is its first output
  const float* sums = nullptr;  ///< [rows, columns]
  void* out = nullptr;
  std::int64_t sums_stride = 0;
  std::int64_t out_stride = 0;
  std::int64_t rows = 0;
  std::int64_t columns = 0;
  DType out_dtype = DType::f32;
  bool accumulate = false;
};
[[nodiscard]] cudaError_t launch_scale(const ScaleArguments& arguments, cudaStream_t stream);

}  // namespace portolan::cuda
