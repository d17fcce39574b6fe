// SPDX-License-Identifier: Apache-2.0
#include "models/tokenizers/base64.hpp"

#include <array>
#include <cstdint>

namespace portolan {
namespace {

constexpr std::array<signed char, 256> make_base64_digits() {
  std::array<signed char, 256> digits{};
  digits.fill(-1);
  constexpr std::string_view kDigits =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  for (std::size_t i = 0; i < kDigits.size(); ++i) {
    digits[static_cast<unsigned char>(kDigits[i])] = static_cast<signed char>(i);
  }
  return digits;
}

}  // namespace

std::optional<std::string> decode_base64(std::string_view text) {
  static constexpr auto kDigits = make_base64_digits();
  if (text.empty() || text.size() % 4 != 0) return std::nullopt;
  const std::size_t padding = text.ends_with("==") ? 2 : text.ends_with('=') ? 1 : 0;
  std::string bytes;
  std::uint32_t bits = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const int digit = i >= text.size() - padding ? 0 : kDigits[static_cast<unsigned char>(text[i])];
    if (digit < 0) return std::nullopt;
    bits = bits << 6 | static_cast<std::uint32_t>(digit);
    if (i % 4 == 3) {
      for (const int shift : {16, 8, 0}) bytes += static_cast<char>(bits >> shift & 0xFFu);
      bits = 0;
    }
  }
  bytes.resize(bytes.size() - padding);
  return bytes;
}

}  // namespace portolan
