// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/allocator.hpp"
#include "core/device.hpp"
#include "core/dtype.hpp"
#include "core/shape.hpp"

namespace portolan {

/// A strided view of shared memory on one device: copying a Tensor copies the view, not the
/// elements.
class Tensor {
 public:
  Tensor() = default;

  /// Uninitialised dense row-major tensor from the device's caching allocator. The device's backend
  /// must be registered (core/backend.hpp). Throws OutOfMemoryError; as all that make tensors,
  /// UsageError for extents that are negative or whose bytes 63 bits cannot count.
  [[nodiscard]] static Tensor empty(const Shape& shape, DType dtype, Device device);

  /// Dense row-major view of memory kept alive by `block`, starting `offset` bytes into it.
  Tensor(BlockReference block, std::size_t offset, const Shape& shape, DType dtype, Device device);

  /// Dense row-major view of memory that outlives the tensor by the caller's promise.
  [[nodiscard]] static Tensor borrow(void* data, const Shape& shape, DType dtype, Device device);

  [[nodiscard]] bool defined() const noexcept { return static_cast<bool>(block_); }
  [[nodiscard]] const Shape& shape() const noexcept { return shape_; }
  /// In elements.
  [[nodiscard]] const Shape& strides() const noexcept { return strides_; }
  [[nodiscard]] int rank() const noexcept { return shape_.rank(); }
  /// Extent of a dimension; negative counts from the last.
  [[nodiscard]] std::int64_t dim(int dimension) const;
  [[nodiscard]] std::int64_t elements() const noexcept { return shape_.elements(); }
  [[nodiscard]] std::size_t bytes() const noexcept {
    return static_cast<std::size_t>(elements()) * size_of(dtype_);
  }
  [[nodiscard]] DType dtype() const noexcept { return dtype_; }
  [[nodiscard]] Device device() const noexcept { return device_; }

  /// True if the elements are dense in row-major order (extents of 1 may have any stride); of a
  /// tensor without elements, too.
  [[nodiscard]] bool is_contiguous() const noexcept;

  [[nodiscard]] std::byte* raw() const noexcept { return block_.get()->data() + offset_; }
  /// Element pointer without a check of the dtype.
  template <typename T>
  [[nodiscard]] T* data() const noexcept {
    return reinterpret_cast<T*>(raw());
  }

  /// The same elements under another shape of equal size; needs a contiguous tensor.
  [[nodiscard]] Tensor view(const Shape& shape) const;
  /// Elements [begin, end) of one dimension; no copy.
  [[nodiscard]] Tensor slice(int dimension, std::int64_t begin, std::int64_t end) const;
  /// Two dimensions exchanged; no copy.
  [[nodiscard]] Tensor transpose(int first, int second) const;
  /// Splits the last dimension into [parts, extent / parts]; works on strided rows, no copy.
  [[nodiscard]] Tensor split_last(std::int64_t parts) const;

 private:
  BlockReference block_;
  std::size_t offset_ = 0;  // bytes
  Shape shape_;
  Shape strides_;
  DType dtype_ = DType::f32;
  Device device_;
};

}  // namespace portolan
