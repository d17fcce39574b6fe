// SPDX-License-Identifier: Apache-2.0
#include "core/tensor.hpp"

#include <algorithm>
#include <array>
#include <span>
#include <utility>

#include "core/backend.hpp"
#include "core/error.hpp"
#include "core/shape_format.hpp"

namespace portolan {
namespace {

int normalise(int dimension, int rank) {
  const int positive = dimension < 0 ? dimension + rank : dimension;
  require(positive >= 0 && positive < rank, "dimension {} does not exist in a tensor of rank {}",
          dimension, rank);
  return positive;
}

/// The shape. Throws UsageError unless 63 bits can count the bytes of a dense tensor of it.
const Shape& countable(const Shape& shape, DType dtype) {
  auto bytes = static_cast<std::int64_t>(size_of(dtype));
  for (const std::int64_t extent : shape) {
    require(extent >= 0, "extents must not be negative, found shape {}", shape);
    // An extent of 0 is passed over: strides are products of some of the extents.
    require(extent == 0 || !__builtin_mul_overflow(bytes, extent, &bytes),
            "a {} tensor of shape {} has more bytes than can be counted", name_of(dtype), shape);
  }
  return shape;
}

}  // namespace

Tensor::Tensor(BlockReference block, std::size_t offset, const Shape& shape, DType dtype,
               Device device)
    : block_(std::move(block)),
      offset_(offset),
      shape_(countable(shape, dtype)),
      strides_(shape.row_major_strides()),
      dtype_(dtype),
      device_(device) {
  require(offset_ + bytes() <= block_.get()->bytes(),
          "a {} tensor of shape {} needs {} bytes, its memory block has {}", name_of(dtype), shape,
          offset_ + bytes(), block_.get()->bytes());
}

Tensor Tensor::empty(const Shape& shape, DType dtype, Device device) {
  const auto bytes = static_cast<std::size_t>(countable(shape, dtype).elements()) * size_of(dtype);
  return Tensor(backend_of(device).allocator().allocate(bytes), 0, shape, dtype, device);
}

Tensor Tensor::borrow(void* data, const Shape& shape, DType dtype, Device device) {
  const auto bytes = static_cast<std::size_t>(countable(shape, dtype).elements()) * size_of(dtype);
  return Tensor(BlockReference::borrow(data, bytes), 0, shape, dtype, device);
}

std::int64_t Tensor::dim(int dimension) const { return shape_[normalise(dimension, rank())]; }

bool Tensor::is_contiguous() const noexcept {
  if (elements() == 0) return true;
  std::int64_t stride = 1;
  for (int dimension = rank() - 1; dimension >= 0; --dimension) {
    if (shape_[dimension] != 1 && strides_[dimension] != stride) return false;
    stride *= shape_[dimension];
  }
  return true;
}

Tensor Tensor::view(const Shape& shape) const {
  require(countable(shape, dtype_).elements() == elements(),
          "cannot view shape {} as {}: {} elements against {}", shape_, shape, elements(),
          shape.elements());
  require(is_contiguous(), "cannot view strided shape {} as {}", shape_, shape);
  Tensor result = *this;
  result.shape_ = shape;
  result.strides_ = shape.row_major_strides();
  return result;
}

Tensor Tensor::slice(int dimension, std::int64_t begin, std::int64_t end) const {
  const int axis = normalise(dimension, rank());
  require(begin >= 0 && begin <= end && end <= shape_[axis],
          "slice [{}, {}) lies outside dimension {} of shape {}", begin, end, axis, shape_);
  Tensor result = *this;
  result.offset_ += static_cast<std::size_t>(begin * strides_[axis]) * size_of(dtype_);
  result.shape_[axis] = end - begin;
  return result;
}

Tensor Tensor::transpose(int first, int second) const {
  const int one = normalise(first, rank());
  const int other = normalise(second, rank());
  Tensor result = *this;
  std::swap(result.shape_[one], result.shape_[other]);
  std::swap(result.strides_[one], result.strides_[other]);
  return result;
}

Tensor Tensor::split_last(std::int64_t parts) const {
  const std::int64_t extent = dim(-1);
  require(parts > 0 && extent % parts == 0, "the last dimension of {} does not split into {} parts",
          shape_, parts);
  require(strides_[rank() - 1] == 1 || extent == 1, "the last dimension of {} must be dense",
          shape_);
  const auto with_parts = [this](const Shape& old, std::int64_t outer, std::int64_t inner) {
    std::array<std::int64_t, Shape::kMaximumRank + 1> values{};
    std::copy(old.begin(), old.end(), values.begin());
    const auto parts_rank = static_cast<std::size_t>(rank()) + 1;
    values[parts_rank - 2] = outer;
    values[parts_rank - 1] = inner;
    return Shape(std::span(values).first(parts_rank));
  };
  Tensor result = *this;
  result.shape_ = with_parts(shape_, parts, extent / parts);
  result.strides_ = with_parts(strides_, extent / parts, 1);
  return result;
}

}  // namespace portolan
