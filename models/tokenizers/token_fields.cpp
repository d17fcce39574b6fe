// SPDX-License-Identifier: Apache-2.0
#include "models/tokenizers/token_fields.hpp"

#include <fmt/format.h>

#include <array>
#include <charconv>
#include <cmath>
#include <cstdint>

#include "core/printable.hpp"

namespace portolan {
namespace {

/// Of ten that a double can hold.
constexpr int kLargestPower = 308;

/// The double that is nearest to it.
double power_of_ten(int power) {
  const std::string text = fmt::format("1e{}", power);
  double result = 0.0;
  std::from_chars(text.data(), text.data() + text.size(), result);
  return result;
}

}  // namespace

PrependScheme read_prepend_scheme(const JsonObject& object) {
  const bool prefix = object.boolean("add_prefix_space", true);
  if (!object.has("prepend_scheme")) return prefix ? PrependScheme::always : PrependScheme::never;
  const std::string scheme = object.text("prepend_scheme");
  if (scheme == "never") return PrependScheme::never;
  if (!prefix) object.fail("prepend_scheme", "never, as add_prefix_space is false");
  if (scheme == "always") return PrependScheme::always;
  if (scheme == "first") return PrependScheme::first;
  object.fail("prepend_scheme", "always, first or never");
}

std::string read_character(const JsonObject& object, std::string_view name) {
  std::string text = object.text(name);
  if (text.empty() || utf8_character_length(text) != text.size()) {
    object.fail(name, "one character");
  }
  return text;
}

double as_huggingface_reads(double value) {
  std::array<char, 32> text{};
  const auto written = std::to_chars(text.data(), text.data() + text.size(), std::abs(value),
                                     std::chars_format::scientific);
  std::uint64_t digits = 0;
  int exponent = 0;
  const char* next = text.data();
  for (; *next != 'e'; ++next) {
    if (*next == '.') continue;
    digits = 10 * digits + static_cast<std::uint64_t>(*next - '0');
    if (next != text.data()) --exponent;
  }
  int power = 0;
  // "e-07", "e+12": a plus is none of from_chars' signs.
  std::from_chars(next[1] == '+' ? next + 2 : next + 1, written.ptr, power);
  exponent += power;
  auto result = static_cast<double>(digits);
  for (; exponent < -kLargestPower; exponent += kLargestPower)
    result /= power_of_ten(kLargestPower);
  result = exponent < 0 ? result / power_of_ten(-exponent) : result * power_of_ten(exponent);
  return std::copysign(result, value);
}

TokenId read_token_id(const JsonObject& object, std::string_view name) {
  return static_cast<TokenId>(object.integer(name, 0, kTokenIdLimit - 1));
}

}  // namespace portolan
