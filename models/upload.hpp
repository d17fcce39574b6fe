// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "core/backend.hpp"

namespace portolan {

/// A dense device tensor of host values, which may go when the call returns. T is what `dtype`
/// holds.
template <typename T>
[[nodiscard]] Tensor upload(const std::vector<T>& values, const Shape& shape, DType dtype,
                            Device device) {
  const Tensor tensor = Tensor::empty(shape, dtype, device);
  Backend& backend = backend_of(device);
  backend.copy_bytes(tensor.raw(), values.data(), tensor.bytes(), Queue::compute);
  backend.synchronize();
  return tensor;
}

}  // namespace portolan
