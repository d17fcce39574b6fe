// SPDX-License-Identifier: Apache-2.0
#include "core/printable.hpp"

#include <fmt/format.h>

#include <cstdint>
#include <iterator>

namespace portolan {

std::size_t utf8_character_length(std::string_view text) {
  if (text.empty()) return 0;
  const auto byte = [&](std::size_t i) { return static_cast<std::uint8_t>(text[i]); };
  const std::uint8_t first = byte(0);
  if (first < 0x80) return 1;
  std::size_t length = 0;
  // Bounds of the second byte exclude overlong forms, surrogates and values beyond U+10FFFF.
  std::uint8_t low = 0x80;
  std::uint8_t high = 0xBF;
  if (first >= 0xC2 && first <= 0xDF) {
    length = 2;
  } else if (first >= 0xE0 && first <= 0xEF) {
    length = 3;
    if (first == 0xE0) low = 0xA0;
    if (first == 0xED) high = 0x9F;
  } else if (first >= 0xF0 && first <= 0xF4) {
    length = 4;
    if (first == 0xF0) low = 0x90;
    if (first == 0xF4) high = 0x8F;
  } else {
    return 0;
  }
  if (text.size() < length || byte(1) < low || byte(1) > high) return 0;
  for (std::size_t i = 2; i < length; ++i) {
    if (byte(i) < 0x80 || byte(i) > 0xBF) return 0;
  }
  return length;
}

std::string printable(std::string_view text, std::size_t limit) {
  std::string result;
  std::size_t position = 0;
  while (position < text.size()) {
    if (result.size() >= limit) {
      result += "...";
      break;
    }
    const std::size_t length = utf8_character_length(text.substr(position));
    const auto first = static_cast<std::uint8_t>(text[position]);
    const bool ascii_control = length == 1 && (first < 0x20 || first == 0x7F);
    // U+0080 to U+009F: some terminals obey these, too.
    const bool latin_control =
        length == 2 && first == 0xC2 && static_cast<std::uint8_t>(text[position + 1]) < 0xA0;
    if (length == 0 || ascii_control || latin_control) {
      const std::size_t count = length == 0 ? 1 : length;
      for (std::size_t i = 0; i < count; ++i) {
        fmt::format_to(std::back_inserter(result), "\\x{:02x}",
                       static_cast<std::uint8_t>(text[position + i]));
      }
      position += count;
    } else {
      result.append(text.substr(position, length));
      position += length;
    }
  }
  return result;
}

std::string printable_path(const std::filesystem::path& path) {
  constexpr std::size_t kLongestPath = 4096;  // PATH_MAX of Linux
  return printable(path.native(), kLongestPath);
}

}  // namespace portolan
