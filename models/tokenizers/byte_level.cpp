// SPDX-License-Identifier: Apache-2.0
#include "models/tokenizers/byte_level.hpp"

#include <array>

#include "models/tokenizers/unicode_text.hpp"

namespace portolan {
namespace {

constexpr char32_t kFirstSubstitute = 0x100;

constexpr bool stands_for_itself(char32_t byte) {
  return (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

constexpr std::array<char32_t, 256> make_alphabet() {
  std::array<char32_t, 256> alphabet{};
  char32_t substitute = kFirstSubstitute;
  for (char32_t byte = 0; byte < 256; ++byte) {
    alphabet[byte] = stands_for_itself(byte) ? byte : substitute++;
  }
  return alphabet;
}

constexpr std::array<char32_t, 256> kAlphabet = make_alphabet();

/// One more than the byte of each character; 0 where there is none.
constexpr std::array<std::uint16_t, kFirstSubstitute + 256> make_bytes() {
  std::array<std::uint16_t, kFirstSubstitute + 256> bytes{};
  for (std::uint16_t byte = 0; byte < 256; ++byte) {
    bytes[kAlphabet[byte]] = static_cast<std::uint16_t>(byte + 1);
  }
  return bytes;
}

constexpr auto kBytes = make_bytes();

}  // namespace

void append_byte_level(std::string& text, std::string_view bytes) {
  for (const char byte : bytes) append_utf8(text, kAlphabet[static_cast<std::uint8_t>(byte)]);
}

std::optional<std::uint8_t> byte_of_character(char32_t character) {
  if (character >= kBytes.size() || kBytes[character] == 0) return std::nullopt;
  return static_cast<std::uint8_t>(kBytes[character] - 1);
}

}  // namespace portolan
