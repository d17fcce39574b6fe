// SPDX-License-Identifier: Apache-2.0
// The tables by which SentencePiece normalizes text, and the two ways in which they are applied.
#include <gtest/gtest.h>

#include <random>

#include "core/error.hpp"
#include "models/tokenizers/base64.hpp"
#include "models/tokenizers/character_map.hpp"
#include "models/tokenizers/graphemes.hpp"
#include "models/tokenizers/sentencepiece_normalizer.hpp"
#include "tests/reference/character_map_reference.hpp"

namespace portolan {
namespace {

using Rules = std::map<std::string, std::string>;

std::string random_text(std::mt19937& random, const std::string& alphabet, std::size_t longest) {
  std::string text(random() % (longest + 1), ' ');
  for (char& character : text) character = alphabet[random() % alphabet.size()];
  return text;
}

TEST(CharacterMap, FindsTheShortestAndTheLongestEntry) {
  std::mt19937 random(23);
  const std::string alphabet = "ab\x7F~";
  for (int round = 0; round < 50; ++round) {
    Rules rules;
    for (std::size_t i = 0; i < 1 + random() % 60; ++i) {
      const std::string key = random_text(random, alphabet, 5);
      if (!key.empty()) rules.emplace(key, random_text(random, "xyz", 4));
    }
    const CharacterMap map(reference::character_map_bytes(rules));
    for (int number = 0; number < 100; ++number) {
      const std::string text = random_text(random, alphabet + std::string(1, '\0'), 7);
      std::vector<std::size_t> lengths;
      for (std::size_t length = 1; length <= text.size(); ++length) {
        if (rules.contains(text.substr(0, length))) lengths.push_back(length);
      }
      const auto shortest = map.shortest_prefix(text);
      const auto longest = map.longest_prefix(text);
      ASSERT_EQ(shortest.has_value(), !lengths.empty()) << text;
      ASSERT_EQ(longest.has_value(), !lengths.empty()) << text;
      if (lengths.empty()) continue;
      EXPECT_EQ(shortest->length, lengths.front());
      EXPECT_EQ(shortest->replacement, rules.at(text.substr(0, lengths.front())));
      EXPECT_EQ(longest->length, lengths.back());
      EXPECT_EQ(longest->replacement, rules.at(text.substr(0, lengths.back())));
    }
  }
}

std::string units(std::initializer_list<std::uint32_t> values) {
  std::string bytes;
  for (const std::uint32_t value : values) {
    for (int shift = 0; shift < 32; shift += 8) bytes += static_cast<char>(value >> shift & 0xFF);
  }
  return bytes;
}

TEST(CharacterMap, UnsoundTablesAreRefused) {
  const auto refusal = [](const std::string& bytes) {
    try {
      const CharacterMap map(bytes);
    } catch (const UsageError& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  constexpr std::uint32_t kEntry = 1u << 8;
  constexpr std::uint32_t kValue = 1u << 31;
  EXPECT_EQ(refusal(units({4, 0})), "");
  EXPECT_NE(refusal(""), "");
  EXPECT_NE(refusal("\x04"), "");
  EXPECT_NE(refusal(units({0})).find("0 bytes"), std::string::npos);
  EXPECT_NE(refusal(units({8, 0})).find("8 bytes"), std::string::npos);
  EXPECT_NE(refusal(units({0xFFFFFFFC, 0})).find("4294967292 bytes"), std::string::npos);
  EXPECT_NE(refusal(units({6, 0, 0})).find("6 bytes"), std::string::npos);
  EXPECT_NE(refusal(units({4, 0}) + "\xFF").find("UTF-8"), std::string::npos);
  // The value of the first unit lies beyond the last, or beyond the replacements, or in a
  // character.
  EXPECT_NE(refusal(units({4, kEntry | 5u << 10})).find("value at 5"), std::string::npos);
  const auto with_value = [&](std::uint32_t value, const std::string& replacements) {
    return refusal(units({8, kEntry | 1u << 10, kValue | value}) + replacements);
  };
  EXPECT_EQ(with_value(0, std::string("x\0", 2)), "");
  EXPECT_EQ(with_value(1, "x"), "") << "nothing, as at the end of any replacement";
  EXPECT_NE(with_value(2, "x").find("value 2"), std::string::npos);
  EXPECT_NE(with_value(0x7FFFFFFF, "x").find("value 2147483647"), std::string::npos);
  EXPECT_NE(with_value(1, "\xC3\xA4").find("value 1"), std::string::npos);
  EXPECT_EQ(with_value(0, std::string(CharacterMap::kLongestReplacement, 'x')), "");
  EXPECT_NE(with_value(0, std::string(CharacterMap::kLongestReplacement + 1, 'x')).find("1024"),
            std::string::npos);
}

TEST(CharacterMap, DamagedTablesAreRefusedOrFindSoundReplacements) {
  std::mt19937 random(24);
  const std::string sound =
      reference::character_map_bytes({{"a", "\xC3\xA4"}, {"ab", "x"}, {"\xC3\xA4", ""}});
  int accepted = 0;
  int refused = 0;
  for (int round = 0; round < 20'000; ++round) {
    std::string bytes = sound;
    for (std::size_t i = 0; i < 1 + random() % 3; ++i) {
      bytes[random() % bytes.size()] = static_cast<char>(random() % 256);
    }
    try {
      const CharacterMap map(bytes);
      for (int byte = 1; byte < 256; ++byte) {
        const auto match = map.longest_prefix(std::string(8, static_cast<char>(byte)));
        if (!match) continue;
        ASSERT_LE(match->replacement.size(), CharacterMap::kLongestReplacement);
      }
      ++accepted;
    } catch (const UsageError&) {
      ++refused;
    }
  }
  EXPECT_GT(accepted, 100);
  EXPECT_GT(refused, 100);
}

TEST(Graphemes, AreWhatReadersTakeForOneCharacter) {
  const auto graphemes = [](std::string_view text) {
    std::string result;
    for_each_grapheme(text, [&](std::string_view each) { result.append(each) += '|'; });
    return result;
  };
  EXPECT_EQ(graphemes(""), "");
  EXPECT_EQ(graphemes("ab \t"), "a|b| |\t|");
  EXPECT_EQ(graphemes("\r\n\n\ra\r"), "\r\n|\n|\r|a|\r|");
  EXPECT_EQ(graphemes("ae\u0301\u0323b\u0301"), "a|e\u0301\u0323|b\u0301|");
  EXPECT_EQ(graphemes("\u0301a"), "\u0301|a|");
  EXPECT_EQ(graphemes("\u65E5\u672C \u1100\u1161\u11A8\uD55C\uAE00"),
            "\u65E5|\u672C| |\u1100\u1161\u11A8|\uD55C|\uAE00|");
  EXPECT_EQ(graphemes("\uD55C\u11A8\u0E01\u0E33"), "\uD55C\u11A8|\u0E01\u0E33|");
  EXPECT_EQ(graphemes("x\U0001F468\u200D\U0001F469\U0001F468y"),
            "x|\U0001F468\u200D\U0001F469|\U0001F468|y|");
  EXPECT_EQ(graphemes("\U0001F1E9\U0001F1EA\U0001F1EB\U0001F1F7"),
            "\U0001F1E9\U0001F1EA|\U0001F1EB\U0001F1F7|");
  // A sign that goes before a number, and joins with it.
  EXPECT_EQ(graphemes("\u0600"
                      "12"),
            "\u0600"
            "1|2|");
  EXPECT_EQ(graphemes("\u00A9\u200D\u00A9\u200Dx"), "\u00A9\u200D\u00A9\u200D|x|");
}

std::string normalized(SentencePieceRules rules, std::string text) {
  make_sentencepiece_normalizer(std::move(rules))->apply(text);
  return text;
}

TEST(SentencePieceNormalizer, TreatsSpacesAsTheModelSays) {
  const auto with = [](bool prefix, bool remove, bool mark) {
    return SentencePieceRules{.characters = {},
                              .untouched = {},
                              .add_prefix = prefix,
                              .remove_extra_spaces = remove,
                              .mark_spaces = mark};
  };
  EXPECT_EQ(normalized(with(true, true, true), "  a   b "), "\u2581a\u2581b");
  EXPECT_EQ(normalized(with(true, true, true), "   "), "");
  EXPECT_EQ(normalized(with(true, true, true), "a\u2581"), "\u2581a") << "markers are spaces now";
  EXPECT_EQ(normalized(with(true, false, true), "  a "), "\u2581\u2581\u2581a\u2581");
  EXPECT_EQ(normalized(with(true, false, true), ""), "");
  EXPECT_EQ(normalized(with(false, true, true), " a  b"), "a\u2581b");
  EXPECT_EQ(normalized(with(false, false, true), " a  b"), "\u2581a\u2581\u2581b");
  EXPECT_EQ(normalized(with(true, true, false), " a  b "), " a b");
}

TEST(SentencePieceNormalizer, AppliesTheLongestEntryOutsideOfWhatStaysAsItIs) {
  const auto rules = [](bool remove) {
    return SentencePieceRules{
        .characters = CharacterMap(reference::character_map_bytes(
            {{"A", "a"}, {"AB", "c"}, {"_", " "}, {"-", ""}, {"W", "x  y "}, {"\xC3\xA4", "ae"}})),
        .untouched = PieceTrie({{"A_", 0}, {"A_A", 1}}),
        .add_prefix = true,
        .remove_extra_spaces = remove,
        .mark_spaces = true};
  };
  EXPECT_EQ(normalized(rules(true), "ABA\xC3\xA4\xC3\xB6"), "\u2581caae\xC3\xB6");
  EXPECT_EQ(normalized(rules(true), "A_ABA_AB"), "\u2581A_ABA_AB");
  EXPECT_EQ(normalized(rules(true), "A_BA_AA"), "\u2581A_BA_Aa");
  EXPECT_EQ(normalized(rules(true), "_-_a _-b_-_"),
            "\u2581"
            "a\u2581"
            "b");
  EXPECT_EQ(normalized(rules(true), "WW b"),
            "\u2581x\u2581\u2581y\u2581x\u2581\u2581y\u2581"
            "b");
  EXPECT_EQ(normalized(rules(true), "---"), "");
  EXPECT_EQ(normalized(rules(false), "---"), "\u2581");
  EXPECT_EQ(normalized(rules(false), "_ a"),
            "\u2581\u2581\u2581"
            "a");
}

TEST(Base64, IsRefusedUnlessItIsWhole) {
  EXPECT_EQ(decode_base64("YWI="), "ab");
  EXPECT_EQ(decode_base64("YWJj/+8="), "abc\xFF\xEF");
  for (const char* text : {"", "YWI", "Y!I=", "=", "Y===", "YWI=YWI="}) {
    EXPECT_FALSE(decode_base64(text).has_value()) << text;
  }
}

}  // namespace
}  // namespace portolan
