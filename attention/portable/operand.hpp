// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "core/dtype.hpp"
#include "core/tensor.hpp"

namespace portolan::portable {

/// A tensor [batch, tokens, heads, head_dim], dense in head_dim, as plain data that can be copied
/// to any device. Kernels compute in f32, so the dtype matters only where rows are read or written;
/// it is looked up there instead of being compiled into each kernel.
struct Operand {
  void* data = nullptr;
  DType dtype = DType::f32;
  std::int64_t batch_stride = 0;
  std::int64_t token_stride = 0;
  std::int64_t head_stride = 0;

  Operand() = default;
  explicit Operand(const Tensor& tensor)
      : data(tensor.raw()),
        dtype(tensor.dtype()),
        batch_stride(tensor.strides()[0]),
        token_stride(tensor.strides()[1]),
        head_stride(tensor.strides()[2]) {}

  /// Calls `function(pointer)` with the address of a row in its element type; the rows of the
  /// following tokens are token_stride apart.
  template <typename Function>
  PORTOLAN_HOST_DEVICE void at(std::int64_t batch, std::int64_t token, std::int64_t head,
                               const Function& function) const {
    const std::int64_t offset = batch * batch_stride + token * token_stride + head * head_stride;
    switch (dtype) {
      case DType::bf16:
        return function(static_cast<BFloat16*>(data) + offset);
      case DType::f16:
        return function(static_cast<Float16*>(data) + offset);
      default:
        return function(static_cast<float*>(data) + offset);
    }
  }
};

/// One f32 per row of q: [batch, heads, tokens]. May be empty.
struct RowValues {
  float* data = nullptr;
  std::int64_t batch_stride = 0;
  std::int64_t head_stride = 0;
  std::int64_t token_stride = 0;

  RowValues() = default;
  explicit RowValues(const Tensor& tensor) {
    if (!tensor.defined()) return;
    data = tensor.data<float>();
    batch_stride = tensor.strides()[0];
    head_stride = tensor.strides()[1];
    token_stride = tensor.strides()[2];
  }

  [[nodiscard]] PORTOLAN_HOST_DEVICE float& at(std::int64_t batch, std::int64_t head,
                                               std::int64_t token) const {
    return data[batch * batch_stride + head * head_stride + token * token_stride];
  }
};

}  // namespace portolan::portable
