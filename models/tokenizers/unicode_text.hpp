// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

/// Characters of UTF-8 text and what Unicode says about them.
namespace portolan {

/// U+FFFD, which stands for bytes that are not UTF-8.
inline constexpr std::string_view kReplacementCharacter = "\xEF\xBF\xBD";

/// The character that starts at `position`, which moves on to the next. `text` must be UTF-8.
[[nodiscard]] char32_t next_character(std::string_view text, std::size_t& position);

/// The character that ends before `position`, which must not be 0 and moves back to its start.
[[nodiscard]] char32_t previous_character(std::string_view text, std::size_t& position);

void append_utf8(std::string& text, char32_t character);

/// Where the first byte lies that belongs to no UTF-8 character; nothing if all do.
[[nodiscard]] std::optional<std::size_t> find_invalid_utf8(std::string_view text);

/// What bytes start with.
struct Utf8Part {
  enum class Kind {
    character,   ///< a whole character
    invalid,     ///< bytes that no byte can make a character any more
    incomplete,  ///< all that is there is the start of a character
  };
  Kind kind;
  std::size_t length;  ///< in bytes, at least 1
};

/// The first part of `bytes`, which must not be empty. An invalid part is the longest start of a
/// character that there is, at least one byte: replacing each by one U+FFFD is what the Unicode
/// standard recommends (section 3.9, substitution of maximal subparts).
[[nodiscard]] Utf8Part first_utf8_part(std::string_view bytes);

/// Unicode's property White_Space.
[[nodiscard]] bool is_white_space(char32_t character);
/// General category N: decimal digits, letter numbers and others.
[[nodiscard]] bool is_numeric(char32_t character);
/// General category P, and all ASCII punctuation and symbols.
[[nodiscard]] bool is_punctuation(char32_t character);
/// What words are made of: alphabetic, marks, decimal digits, connectors, joiners (UTS #18, \w).
[[nodiscard]] bool is_word_character(char32_t character);

/// General category C as assigned: controls, formats, private use.
[[nodiscard]] bool is_other(char32_t character);

enum class UnicodeForm { nfc, nfd, nfkc, nfkd };

[[nodiscard]] std::string normalize_unicode(std::string_view text, UnicodeForm form);
/// Each character's lower case by itself, whatever stands around it.
[[nodiscard]] std::string lowercase(std::string_view text);
/// Without the characters of general category M.
[[nodiscard]] std::string strip_marks(std::string_view text);
/// Without those of general category Mn.
[[nodiscard]] std::string strip_nonspacing_marks(std::string_view text);

}  // namespace portolan
