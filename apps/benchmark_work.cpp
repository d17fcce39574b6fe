// SPDX-License-Identifier: Apache-2.0
#include "apps/benchmark_work.hpp"

#include <algorithm>

#include "core/ops.hpp"

namespace portolan {
namespace {

/// Of the product's operands: large enough for a device's peak, small enough to run beside every
/// sample.
constexpr std::int64_t kHostProductExtent = 1536;
constexpr std::int64_t kGpuProductExtent = 8192;
/// Read by all ranks together, and by each at least.
constexpr std::int64_t kReadElements = std::int64_t{1} << 28;
constexpr std::int64_t kLeastElements = std::int64_t{1} << 24;

}  // namespace

Tensor random_operand(const Shape& shape, DType dtype, Device device, std::uint64_t seed,
                      const char* name) {
  const Tensor tensor = Tensor::empty(shape, dtype, device);
  const std::int64_t columns = shape[shape.rank() - 1];
  ops::random_uniform(tensor.view({tensor.elements() / columns, columns}), random_key(seed, name),
                      {0, 0, columns}, 0.0F, 1.0F);
  return tensor;
}

MatrixProduct::MatrixProduct(DType dtype, Device device) {
  const std::int64_t extent = is_host(device) ? kHostProductExtent : kGpuProductExtent;
  const Shape square{extent, extent};
  x_ = random_operand(square, dtype, device, 0, "x");
  weight_ = backend_of(device).allocate_packed(extent, extent, dtype);
  ops::pack_rows(random_operand(square, dtype, device, 0, "weight"), 0, weight_);
  out_ = Tensor::empty(square, dtype, device);
  run();
}

void MatrixProduct::run() const { ops::matmul(x_, weight_, out_); }

double MatrixProduct::flops() const {
  const auto extent = static_cast<double>(x_.dim(0));
  return 2.0 * extent * extent * extent;
}

MemoryRead::MemoryRead(Device device, int ranks)
    : memory_(
          Tensor::empty({std::max(kLeastElements, kReadElements / ranks)}, DType::f32, device)) {
  ops::fill(memory_, 1.0F);
}

void MemoryRead::run() const { static_cast<void>(ops::sum_of_squares(memory_)); }

}  // namespace portolan
