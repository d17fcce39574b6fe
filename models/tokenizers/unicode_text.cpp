// SPDX-License-Identifier: Apache-2.0
#include "models/tokenizers/unicode_text.hpp"

#include <fmt/format.h>
#include <unicode/bytestream.h>
#include <unicode/normalizer2.h>
#include <unicode/uchar.h>

#include <cstring>
#include <limits>

#include "core/error.hpp"
#include "core/printable.hpp"

namespace portolan {
namespace {

std::uint32_t byte_at(std::string_view text, std::size_t position) {
  return static_cast<std::uint8_t>(text[position]);
}

bool is_continuation(char byte) { return (static_cast<std::uint8_t>(byte) & 0xC0u) == 0x80u; }

/// Whether some bytes after `prefix` would make it one character.
bool starts_character(std::string_view prefix) {
  // Second bytes have a lower or an upper bound, never both, so one of the two ends always fits.
  for (const char fill : {'\x80', '\xBF'}) {
    std::string candidate(prefix);
    while (candidate.size() < 4) {
      candidate += fill;
      if (utf8_character_length(candidate) == candidate.size()) return true;
    }
  }
  return false;
}

UChar32 code_point(char32_t character) { return static_cast<UChar32>(character); }

template <typename Function>
std::string map_characters(std::string_view text, const Function& append) {
  std::string result;
  result.reserve(text.size());
  for (std::size_t position = 0; position < text.size();) {
    append(result, next_character(text, position));
  }
  return result;
}

/// Without characters of general categories in `mask`.
std::string strip_categories(std::string_view text, std::uint32_t mask) {
  return map_characters(text, [mask](std::string& out, char32_t character) {
    if ((U_GET_GC_MASK(code_point(character)) & mask) == 0) append_utf8(out, character);
  });
}

const icu::Normalizer2& normalizer_of(UnicodeForm form) {
  UErrorCode status = U_ZERO_ERROR;
  const icu::Normalizer2* normalizer = nullptr;
  switch (form) {
    case UnicodeForm::nfc:
      normalizer = icu::Normalizer2::getNFCInstance(status);
      break;
    case UnicodeForm::nfd:
      normalizer = icu::Normalizer2::getNFDInstance(status);
      break;
    case UnicodeForm::nfkc:
      normalizer = icu::Normalizer2::getNFKCInstance(status);
      break;
    case UnicodeForm::nfkd:
      normalizer = icu::Normalizer2::getNFKDInstance(status);
      break;
  }
  if (U_FAILURE(status) != 0) {
    throw Error(fmt::format("ICU has no data for normalization: {}", u_errorName(status)));
  }
  return *normalizer;
}

}  // namespace

char32_t next_character(std::string_view text, std::size_t& position) {
  const std::uint32_t first = byte_at(text, position);
  if (first < 0x80) {
    ++position;
    return first;
  }
  const auto tail = [&](std::size_t i) { return byte_at(text, position + i) & 0x3Fu; };
  char32_t character = 0;
  if (first < 0xE0) {
    character = (first & 0x1Fu) << 6 | tail(1);
    position += 2;
  } else if (first < 0xF0) {
    character = (first & 0x0Fu) << 12 | tail(1) << 6 | tail(2);
    position += 3;
  } else {
    character = (first & 0x07u) << 18 | tail(1) << 12 | tail(2) << 6 | tail(3);
    position += 4;
  }
  return character;
}

char32_t previous_character(std::string_view text, std::size_t& position) {
  do {
    --position;
  } while (position > 0 && is_continuation(text[position]));
  std::size_t start = position;
  return next_character(text, start);
}

void append_utf8(std::string& text, char32_t character) {
  const auto add = [&](char32_t byte) { text += static_cast<char>(byte); };
  if (character < 0x80) {
    add(character);
  } else if (character < 0x800) {
    add(0xC0u | character >> 6);
    add(0x80u | (character & 0x3Fu));
  } else if (character < 0x10000) {
    add(0xE0u | character >> 12);
    add(0x80u | (character >> 6 & 0x3Fu));
    add(0x80u | (character & 0x3Fu));
  } else {
    add(0xF0u | character >> 18);
    add(0x80u | (character >> 12 & 0x3Fu));
    add(0x80u | (character >> 6 & 0x3Fu));
    add(0x80u | (character & 0x3Fu));
  }
}

std::optional<std::size_t> find_invalid_utf8(std::string_view text) {
  constexpr std::uint64_t kHighBits = 0x8080808080808080u;
  std::size_t position = 0;
  while (position < text.size()) {
    // Most text is ASCII: eight bytes at a time.
    std::uint64_t word = 0;
    while (position + sizeof(word) <= text.size()) {
      std::memcpy(&word, text.data() + position, sizeof(word));
      if ((word & kHighBits) != 0) break;
      position += sizeof(word);
    }
    if (position == text.size()) break;
    const std::size_t length = utf8_character_length(text.substr(position));
    if (length == 0) return position;
    position += length;
  }
  return std::nullopt;
}

Utf8Part first_utf8_part(std::string_view bytes) {
  if (const std::size_t length = utf8_character_length(bytes)) {
    return {Utf8Part::Kind::character, length};
  }
  std::size_t length = 0;
  while (length < bytes.size() && starts_character(bytes.substr(0, length + 1))) ++length;
  if (length == bytes.size()) return {Utf8Part::Kind::incomplete, length};
  return {Utf8Part::Kind::invalid, length == 0 ? 1 : length};
}

bool is_white_space(char32_t character) { return u_isUWhiteSpace(code_point(character)) != 0; }

bool is_numeric(char32_t character) {
  return (U_GET_GC_MASK(code_point(character)) & U_GC_N_MASK) != 0;
}

bool is_punctuation(char32_t character) {
  if (character < 0x80)
    return u_isgraph(code_point(character)) && !u_isalnum(code_point(character));
  return (U_GET_GC_MASK(code_point(character)) & U_GC_P_MASK) != 0;
}

bool is_word_character(char32_t character) {
  const UChar32 point = code_point(character);
  return (U_GET_GC_MASK(point) & (U_GC_M_MASK | U_GC_ND_MASK | U_GC_PC_MASK)) != 0 ||
         u_hasBinaryProperty(point, UCHAR_ALPHABETIC) != 0 ||
         u_hasBinaryProperty(point, UCHAR_JOIN_CONTROL) != 0;
}

bool is_other(char32_t character) {
  return (U_GET_GC_MASK(code_point(character)) & (U_GC_CC_MASK | U_GC_CF_MASK | U_GC_CO_MASK)) != 0;
}

std::string normalize_unicode(std::string_view text, UnicodeForm form) {
  if (text.size() > static_cast<std::size_t>(std::numeric_limits<std::int32_t>::max())) {
    throw UsageError("text of 2 GiB or more cannot be normalized");
  }
  std::string result;
  icu::StringByteSink<std::string> sink(&result, static_cast<std::int32_t>(text.size()));
  UErrorCode status = U_ZERO_ERROR;
  normalizer_of(form).normalizeUTF8(
      0, icu::StringPiece(text.data(), static_cast<std::int32_t>(text.size())), sink, nullptr,
      status);
  if (U_FAILURE(status) != 0) {
    throw Error(fmt::format("ICU could not normalize text: {}", u_errorName(status)));
  }
  return result;
}

std::string lowercase(std::string_view text) {
  return map_characters(text, [](std::string& out, char32_t character) {
    // The only character whose lower case, by itself, is two.
    if (character == 0x130) {
      out += "i\xCC\x87";
    } else {
      append_utf8(out, static_cast<char32_t>(u_tolower(code_point(character))));
    }
  });
}

std::string strip_marks(std::string_view text) { return strip_categories(text, U_GC_M_MASK); }

std::string strip_nonspacing_marks(std::string_view text) {
  return strip_categories(text, U_GC_MN_MASK);
}

}  // namespace portolan
