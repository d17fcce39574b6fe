// SPDX-License-Identifier: Apache-2.0
#include "core/shape.hpp"

#include <fmt/ranges.h>

#include <algorithm>

#include "core/error.hpp"

namespace portolan {

Shape::Shape(std::initializer_list<std::int64_t> extents)
    : Shape(std::span<const std::int64_t>(extents.begin(), extents.size())) {}

Shape::Shape(std::span<const std::int64_t> extents) : rank_(static_cast<int>(extents.size())) {
  require(extents.size() <= kMaximumRank, "a tensor has at most {} dimensions, found {}",
          kMaximumRank, extents.size());
  std::copy(extents.begin(), extents.end(), extents_.begin());
}

std::int64_t Shape::elements() const noexcept {
  std::int64_t product = 1;
  for (const std::int64_t extent : *this) product *= extent;
  return product;
}

Shape Shape::row_major_strides() const {
  Shape strides = *this;
  std::int64_t stride = 1;
  for (int dimension = rank_ - 1; dimension >= 0; --dimension) {
    strides[dimension] = stride;
    stride *= extents_[dimension];
  }
  return strides;
}

std::string Shape::to_string() const {
  return fmt::format("[{}]", fmt::join(begin(), end(), ", "));
}

bool operator==(const Shape& left, const Shape& right) {
  return std::equal(left.begin(), left.end(), right.begin(), right.end());
}

}  // namespace portolan
