// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <fmt/format.h>

#include <string_view>

#include "core/shape.hpp"

/// As Shape::to_string(), made only where a message is: checks that hold format nothing. Apart from
/// the shape itself, which kernels are compiled with where there is no fmt.
template <>
struct fmt::formatter<portolan::Shape> : fmt::formatter<std::string_view> {
  template <typename Context>
  auto format(const portolan::Shape& shape, Context& context) const {
    return fmt::formatter<std::string_view>::format(shape.to_string(), context);
  }
};
