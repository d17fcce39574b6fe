// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "core/tensor.hpp"
#include "core/weight.hpp"

/// Operands of benchmarks, and the work at which a device is fastest, beside which other work is
/// measured.
namespace portolan {

/// Uniform on [-1, 1), the same for the same seed and name.
[[nodiscard]] Tensor random_operand(const Shape& shape, DType dtype, Device device,
                                    std::uint64_t seed, const char* name);

/// A large product of the device in a dtype.
class MatrixProduct {
 public:
  MatrixProduct(DType dtype, Device device);
  void run() const;
  [[nodiscard]] double flops() const;

 private:
  Tensor x_;
  Weight weight_;
  Tensor out_;
};

/// One pass over memory far larger than any cache, which leaves nothing else in the caches.
class MemoryRead {
 public:
  /// `ranks` of them read at once.
  MemoryRead(Device device, int ranks);
  void run() const;
  /// Of this rank.
  [[nodiscard]] std::int64_t bytes() const { return static_cast<std::int64_t>(memory_.bytes()); }

 private:
  Tensor memory_;
};

}  // namespace portolan
