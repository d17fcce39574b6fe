// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <utility>
#include <vector>

#include "core/error.hpp"
#include "models/tokenizers/byte_level.hpp"
#include "models/tokenizers/regex.hpp"
#include "models/tokenizers/unicode_text.hpp"

namespace portolan {
namespace {

using Kind = Utf8Part::Kind;

TEST(UnicodeText, PartsOfBytesAreCharactersOrMaximalInvalidParts) {
  const auto expect = [](std::string_view bytes, Kind kind, std::size_t length) {
    const Utf8Part part = first_utf8_part(bytes);
    EXPECT_EQ(part.kind, kind) << bytes;
    EXPECT_EQ(part.length, length) << bytes;
  };
  expect("ab", Kind::character, 1);
  expect("\xE2\x96\x81x", Kind::character, 3);
  expect("\xF0\x9F\x99\x82", Kind::character, 4);
  expect("\xFFx", Kind::invalid, 1);
  expect("\x80", Kind::invalid, 1);
  expect("\xC0\x80", Kind::invalid, 1);          // overlong
  expect("\xE0\x80\x80", Kind::invalid, 1);      // overlong
  expect("\xED\xA0\x80", Kind::invalid, 1);      // surrogate
  expect("\xF4\x90\x80\x80", Kind::invalid, 1);  // beyond U+10FFFF
  expect("\xE2\x96x", Kind::invalid, 2);
  expect("\xF0\x9F\x99x", Kind::invalid, 3);
  expect("\xE2", Kind::incomplete, 1);
  expect("\xE2\x96", Kind::incomplete, 2);
  expect("\xED\x9F", Kind::incomplete, 2);
  expect("\xF4\x8F\xBF", Kind::incomplete, 3);
}

TEST(UnicodeText, AllCharactersAreReadBackBothWays) {
  std::string text;
  std::u32string characters;
  for (char32_t character = 0; character < 0x110000; character += character < 0x3000 ? 1 : 97) {
    if (character >= 0xD800 && character < 0xE000) continue;
    append_utf8(text, character);
    characters += character;
  }
  EXPECT_FALSE(find_invalid_utf8(text).has_value());
  std::u32string forwards;
  for (std::size_t position = 0; position < text.size();) {
    forwards += next_character(text, position);
  }
  EXPECT_TRUE(forwards == characters);
  std::u32string backwards;
  for (std::size_t position = text.size(); position > 0;) {
    backwards += previous_character(text, position);
  }
  EXPECT_TRUE(std::u32string(backwards.rbegin(), backwards.rend()) == characters);
}

TEST(UnicodeText, TheFirstInvalidByteIsFoundWhereverItStands) {
  for (std::size_t length = 0; length < 40; ++length) {
    std::string text(length, 'a');
    EXPECT_FALSE(find_invalid_utf8(text).has_value());
    for (std::size_t i = 0; i < length; ++i) {
      std::string damaged = text;
      damaged[i] = '\x80';
      EXPECT_EQ(find_invalid_utf8(damaged), i);
    }
  }
}

TEST(ByteLevelAlphabet, EveryByteHasACharacterOfItsOwn) {
  std::string bytes;
  for (int byte = 0; byte < 256; ++byte) bytes += static_cast<char>(byte);
  std::string text;
  append_byte_level(text, bytes);
  std::string back;
  for (std::size_t position = 0; position < text.size();) {
    const auto byte = byte_of_character(next_character(text, position));
    ASSERT_TRUE(byte.has_value());
    back += static_cast<char>(*byte);
  }
  EXPECT_EQ(back, bytes);
  std::string space;
  append_byte_level(space, " \n!");
  EXPECT_EQ(space, "\xC4\xA0\xC4\x8A!");
  EXPECT_FALSE(byte_of_character(U' ').has_value());
  EXPECT_FALSE(byte_of_character(U'\u2581').has_value());
}

/// The matches of `pattern` in `text`, with | between them.
std::string matches(const std::string& pattern, std::string_view text) {
  std::string result;
  Regex(pattern).for_each_match(text, [&](std::size_t begin, std::size_t end) {
    if (!result.empty()) result += '|';
    result += text.substr(begin, end - begin);
  });
  return result;
}

TEST(RegularExpressions, MeanWhatTheyMeanInTokenizerFiles) {
  EXPECT_EQ(matches(R"(\s)", "a\u00A0b\u180Ec\u2003d"), "\u00A0|\u2003");
  EXPECT_EQ(matches(R"(\w+)", "a1_\u00E4\u0301 \u65E5-\u203F"), "a1_\u00E4\u0301|\u65E5|\u203F");
  EXPECT_EQ(matches(R"(\W+)", "a  b-"), "  |-");
  EXPECT_EQ(matches(R"([^\w\s]+)", "a ,; b!"), ",;|!");
  EXPECT_EQ(matches(R"(\h+)", "xA9g"), "A9");
  EXPECT_EQ(matches(R"(\d)", "1\u0663\u00B2"), "1|\u0663");
  EXPECT_EQ(matches("^a|b$", "ab\nab"), "a|b|a|b");
  EXPECT_EQ(matches("(?m:a.)", "a\nab"), "a\n|ab");
  EXPECT_EQ(matches("a{,2}b", "aaab"), "aab");
  EXPECT_EQ(matches("[]a]+", "a]b"), "a]");
  EXPECT_EQ(matches("[[:upper:]]+", "aBCd"), "BC");
}

TEST(RegularExpressions, EmptyMatchesStandWhereNoMatchEnded) {
  std::vector<std::pair<std::size_t, std::size_t>> found;
  Regex("x*").for_each_match(
      "axxb", [&](std::size_t begin, std::size_t end) { found.emplace_back(begin, end); });
  const std::vector<std::pair<std::size_t, std::size_t>> expected{{0, 0}, {1, 3}, {4, 4}};
  EXPECT_EQ(found, expected);
}

TEST(RegularExpressions, LongRunsAreMatchedAndPatternsWithoutEndGivenUp) {
  const std::string spaces(4'000'000, ' ');
  EXPECT_EQ(matches(R"(\s*[\r\n]+|\s+(?!\S)|\s+)", spaces), spaces);
  EXPECT_THROW(static_cast<void>(matches("(a+)+c", std::string(40, 'a') + "dc")), Error);
}

TEST(RegularExpressions, WhatWouldMeanSomethingElseIsRefused) {
  for (const char* pattern :
       {"[a[b]]", "[a&&b]", "[\\W]", "\\H", "a{2,3}+", "[", "(", "*", "\\p{Q}", "[[:alpha"}) {
    EXPECT_THROW(Regex{pattern}, UsageError) << pattern;
  }
  EXPECT_THROW(Regex{std::string(100'000, 'a')}, UsageError);
}

}  // namespace
}  // namespace portolan
