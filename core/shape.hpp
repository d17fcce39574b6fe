// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>

namespace portolan {

/// Up to six extents or strides, held in place so that making a tensor view allocates nothing.
class Shape {
 public:
  static constexpr int kMaximumRank = 6;

  Shape() = default;
  Shape(std::initializer_list<std::int64_t> extents);
  explicit Shape(std::span<const std::int64_t> extents);

  [[nodiscard]] int rank() const noexcept { return rank_; }
  [[nodiscard]] std::int64_t operator[](int dimension) const { return extents_[dimension]; }
  [[nodiscard]] std::int64_t& operator[](int dimension) { return extents_[dimension]; }
  [[nodiscard]] const std::int64_t* begin() const noexcept { return extents_.data(); }
  [[nodiscard]] const std::int64_t* end() const noexcept { return extents_.data() + rank_; }

  /// Product of the extents; 1 for rank 0. Those of a Tensor do not overflow it.
  [[nodiscard]] std::int64_t elements() const noexcept;
  /// Strides, in elements, of a dense row-major tensor of this shape.
  [[nodiscard]] Shape row_major_strides() const;
  /// "[2, 256, 4096]".
  [[nodiscard]] std::string to_string() const;

  friend bool operator==(const Shape& left, const Shape& right);

 private:
  std::array<std::int64_t, kMaximumRank> extents_{};
  int rank_ = 0;
};

}  // namespace portolan
