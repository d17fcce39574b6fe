// SPDX-License-Identifier: Apache-2.0
#include "core/tensor.hpp"

#include <utility>
#include <vector>

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

}  // namespace

Tensor::Tensor(BlockReference block, std::size_t offset, const Shape& shape, DType dtype,
               Device device)
    : block_(std::move(block)),
      offset_(offset),
      shape_(shape),
      strides_(shape.row_major_strides()),
      dtype_(dtype),
      device_(device) {
  require(offset_ + bytes() <= block_.get()->bytes(),
          "a {} tensor of shape {} needs {} bytes, its memory block has {}", name_of(dtype), shape,
          offset_ + bytes(), block_.get()->bytes());
}

Tensor Tensor::empty(const Shape& shape, DType dtype, Device device) {
  for (const std::int64_t extent : shape) {
    require(extent >= 0, "extents must not be negative, found shape {}", shape);
  }
  const auto bytes = static_cast<std::size_t>(shape.elements()) * size_of(dtype);
  return Tensor(backend_of(device).allocator().allocate(bytes), 0, shape, dtype, device);
}

Tensor Tensor::borrow(void* data, const Shape& shape, DType dtype, Device device) {
  const auto bytes = static_cast<std::size_t>(shape.elements()) * size_of(dtype);
  return Tensor(BlockReference::borrow(data, bytes), 0, shape, dtype, device);
}

std::int64_t Tensor::dim(int dimension) const { return shape_[normalise(dimension, rank())]; }

bool Tensor::is_contiguous() const noexcept {
  std::int64_t stride = 1;
  for (int dimension = rank() - 1; dimension >= 0; --dimension) {
    if (shape_[dimension] != 1 && strides_[dimension] != stride) return false;
    stride *= shape_[dimension];
  }
  return true;
}

Tensor Tensor::view(const Shape& shape) const {
  require(shape.elements() == elements(), "cannot view shape {} as {}: {} elements against {}",
          shape_, shape, elements(), shape.elements());
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

Tensor Tensor::split_last(std::int64_t parts) const {
  const std::int64_t extent = dim(-1);
  require(parts > 0 && extent % parts == 0, "the last dimension of {} does not split into {} parts",
          shape_, parts);
  require(strides_[rank() - 1] == 1 || extent == 1, "the last dimension of {} must be dense",
          shape_);
  std::vector<std::int64_t> extents(shape_.begin(), shape_.end());
  std::vector<std::int64_t> strides(strides_.begin(), strides_.end());
  extents.back() = parts;
  strides.back() = extent / parts;
  extents.push_back(extent / parts);
  strides.push_back(1);
  Tensor result = *this;
  result.shape_ = Shape(extents);
  result.strides_ = Shape(strides);
  return result;
}

}  // namespace portolan
