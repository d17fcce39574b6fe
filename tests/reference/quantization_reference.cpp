// SPDX-License-Identifier: Apache-2.0
#include "tests/reference/quantization_reference.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace portolan::reference {
namespace {

constexpr std::int64_t kPanel = 64;
constexpr std::int64_t kGroup = 32;

/// The engine divides and multiplies scales in f32. Rounding an f64 result of f32 operands to f32
/// gives the same.
double in_f32(double value) { return static_cast<double>(static_cast<float>(value)); }

double largest(const Values& weight, std::int64_t begin, std::int64_t end) {
  double result = 0.0;
  for (std::int64_t i = begin; i < end; ++i) {
    result = std::max(result, std::abs(weight.at(static_cast<std::size_t>(i))));
  }
  return result;
}

struct Factor {
  int code = 0;
  double value = std::ldexp(1.0, -15);
};

/// The first of all 241 factors up to 1 that is not below the ratio.
Factor factor_of(double ratio) {
  for (int code = 0; code <= 240; ++code) {
    const double value = std::ldexp(1.0 + (code % 16) / 16.0, code / 16 - 15);
    if (value >= ratio) return {code, value};
  }
  return {240, 1.0};
}

}  // namespace

QuantizedMatrix quantize(const Values& weight, std::int64_t out_features, std::int64_t in_features,
                         int bits) {
  const std::int64_t panels = (out_features + kPanel - 1) / kPanel;
  const std::int64_t groups = (in_features + kGroup - 1) / kGroup;
  const std::int64_t factor_bytes = bits == 4 ? kPanel : 0;
  const std::int64_t group_bytes = factor_bytes + kGroup * kPanel * bits / 8;
  const std::int64_t panel_bytes = kPanel * 4 + groups * group_bytes;
  const double limit = bits == 4 ? 7.0 : 127.0;
  QuantizedMatrix result{Values(weight.size()), Values(weight.size()),
                         std::vector<std::uint8_t>(static_cast<std::size_t>(panels * panel_bytes))};
  for (std::int64_t row = 0; row < out_features; ++row) {
    std::uint8_t* const panel = result.panels.data() + row / kPanel * panel_bytes;
    const std::int64_t lane = row % kPanel;
    const double most = largest(weight, row * in_features, (row + 1) * in_features);
    const double scale = in_f32(most / limit);
    const auto stored = static_cast<float>(scale);
    std::memcpy(panel + lane * 4, &stored, 4);
    for (std::int64_t group = 0; group < groups; ++group) {
      const std::int64_t first = row * in_features + group * kGroup;
      const std::int64_t last = std::min(first + kGroup, (row + 1) * in_features);
      std::uint8_t* const codes = panel + kPanel * 4 + group * group_bytes;
      std::uint8_t* const words = codes + factor_bytes;
      double step = scale;
      if (bits == 4) {
        const double ratio = most > 0.0 ? in_f32(largest(weight, first, last) / most) : 0.0;
        const Factor factor = factor_of(ratio);
        codes[lane] = static_cast<std::uint8_t>(factor.code);
        step = in_f32(scale * factor.value);
      }
      for (std::int64_t i = first; i < last; ++i) {
        const auto at = static_cast<std::size_t>(i);
        const double ratio = step > 0.0 ? in_f32(weight[at] / step) : 0.0;
        const double integer = std::clamp(std::nearbyint(ratio), -limit, limit);
        result.steps[at] = step;
        result.values[at] = integer * step;
        const auto stored_bits = static_cast<unsigned>(static_cast<int>(integer));
        const std::int64_t input = i - first;
        if (bits == 8) {
          words[(input / 4 * kPanel + lane) * 4 + input % 4] =
              static_cast<std::uint8_t>(stored_bits);
        } else {
          std::uint8_t& byte = words[(input / 8 * kPanel + lane) * 4 + input % 8 / 2];
          byte = static_cast<std::uint8_t>(byte | ((stored_bits & 15U) << (input % 2 * 4)));
        }
      }
    }
  }
  return result;
}

Values integer_rounding(const Values& x, std::int64_t in_features) {
  constexpr std::int64_t kGroup = 32;
  const auto size = static_cast<std::int64_t>(x.size());
  const auto magnitude = [&](std::int64_t i) { return std::abs(x[static_cast<std::size_t>(i)]); };
  Values rounding(x.size(), 0.0);
  for (std::int64_t row = 0; row < size; row += in_features) {
    for (std::int64_t begin = row; begin < row + in_features; begin += kGroup) {
      const std::int64_t end = std::min(begin + kGroup, row + in_features);
      double largest = 0.0;
      for (std::int64_t i = begin; i < end; ++i) largest = std::max(largest, magnitude(i));
      if (largest == 0.0) continue;
      const double all_bits = std::ldexp(255.0, std::ilogb(largest) - 7);
      for (std::int64_t i = begin; i < end; ++i) {
        if (magnitude(i) < largest / 128.0 || magnitude(i) == all_bits) {
          rounding[static_cast<std::size_t>(i)] = std::ldexp(largest, -15);
        }
      }
    }
  }
  return rounding;
}

}  // namespace portolan::reference
