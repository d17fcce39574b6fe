// SPDX-License-Identifier: Apache-2.0
#include "core/convert.hpp"

#include <bit>
#include <cmath>
#include <cstring>
#include <type_traits>

#include "core/error.hpp"

namespace portolan {
namespace {

/// f64 to f32 rounded to odd: cut toward zero, and the last bit set if anything was cut. A second
/// rounding, to a format at least two bits shorter, then gives what one direct rounding would (S.
/// Boldo and G. Melquiond, "When double rounding is odd", 2005).
float narrow_to_odd(double value) {
  const auto nearest = static_cast<float>(value);
  if (std::isnan(value) || static_cast<double>(nearest) == value) return nearest;
  auto bits = std::bit_cast<std::uint32_t>(nearest);
  if (std::fabs(static_cast<double>(nearest)) > std::fabs(value)) --bits;
  return std::bit_cast<float>(bits | 1u);
}

template <typename To, typename From>
To convert(From value) {
  if constexpr (std::is_same_v<From, double>) {
    if constexpr (std::is_same_v<To, float>) {
      return static_cast<float>(value);
    } else {
      return from_float<To>(narrow_to_odd(value));
    }
  } else if constexpr (std::is_same_v<From, std::int32_t>) {
    return static_cast<To>(value);
  } else if constexpr (std::is_same_v<To, double>) {
    return static_cast<double>(to_float(value));
  } else {
    return from_float<To>(to_float(value));
  }
}

template <typename From, typename To>
void convert_all(const void* source, void* destination, std::int64_t count) {
  const auto* from = static_cast<const std::byte*>(source);
  auto* to = static_cast<std::byte*>(destination);
  for (std::int64_t i = 0; i < count; ++i) {
    From value;
    std::memcpy(&value, from + i * static_cast<std::int64_t>(sizeof(From)), sizeof(From));
    const To converted = convert<To>(value);
    std::memcpy(to + i * static_cast<std::int64_t>(sizeof(To)), &converted, sizeof(To));
  }
}

using Converter = void (*)(const void*, void*, std::int64_t);

template <typename From>
Converter converter_from(DType to) {
  switch (to) {
    case DType::f32:
      return convert_all<From, float>;
    case DType::bf16:
      return convert_all<From, BFloat16>;
    case DType::f16:
      return convert_all<From, Float16>;
    case DType::f64:
      // f64 to f64 is a copy and never gets here.
      if constexpr (!std::is_same_v<From, double>) return convert_all<From, double>;
      return nullptr;
    default:
      return nullptr;
  }
}

Converter converter(DType from, DType to) {
  switch (from) {
    case DType::f32:
      return converter_from<float>(to);
    case DType::bf16:
      return converter_from<BFloat16>(to);
    case DType::f16:
      return converter_from<Float16>(to);
    case DType::f64:
      return converter_from<double>(to);
    case DType::i32:
      return to == DType::i64 ? convert_all<std::int32_t, std::int64_t> : nullptr;
    default:
      return nullptr;
  }
}

}  // namespace

bool is_convertible(DType from, DType to) { return from == to || converter(from, to) != nullptr; }

void convert_elements(const void* source, DType from, void* destination, DType to,
                      std::int64_t count) {
  if (count <= 0) return;
  if (from == to) {
    std::memcpy(destination, source, static_cast<std::size_t>(count) * size_of(from));
    return;
  }
  const Converter convert = converter(from, to);
  if (convert == nullptr) {
    throw UnsupportedError(fmt::format("no conversion from {} to {}", name_of(from), name_of(to)));
  }
  convert(source, destination, count);
}

}  // namespace portolan
