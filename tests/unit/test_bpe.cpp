// SPDX-License-Identifier: Apache-2.0
// Byte pair encoding against its definition, on random merges and texts.
#include <gtest/gtest.h>

#include <map>
#include <random>

#include "core/error.hpp"
#include "models/tokenizers/bpe_model.hpp"
#include "models/tokenizers/tokenizer_tiktoken.hpp"
#include "models/tokenizers/word_cache.hpp"
#include "tests/reference/bpe_reference.hpp"
#include "tests/unit/tokenizer_testing.hpp"

namespace portolan {
namespace {

using Pairs = std::map<std::pair<std::string, std::string>, std::size_t>;
using Tokens = std::map<std::string, std::size_t>;

std::size_t below(std::mt19937& random, std::size_t limit) { return random() % limit; }

std::string random_text(std::mt19937& random, const std::string& alphabet, std::size_t longest) {
  std::string text(below(random, longest + 1), ' ');
  for (char& character : text) character = alphabet[below(random, alphabet.size())];
  return text;
}

reference::Symbols characters_of(const std::string& text) {
  reference::Symbols symbols;
  for (const char character : text) symbols.emplace_back(1, character);
  return symbols;
}

TEST(BytePairEncoding, AgreesWithItsDefinition) {
  const std::string alphabet = "abc";
  std::mt19937 random(11);
  for (int round = 0; round < 200; ++round) {
    Vocabulary vocabulary;
    reference::Symbols tokens;
    const auto add = [&](const std::string& token) {
      if (vocabulary.add(token, static_cast<TokenId>(tokens.size()))) tokens.push_back(token);
    };
    for (const char character : alphabet) add(std::string(1, character));
    BpeMerges merges(0);
    Pairs ranks;
    for (std::size_t rank = 0; rank < 1 + below(random, 25); ++rank) {
      const std::string left = tokens[below(random, tokens.size())];
      const std::string right = tokens[below(random, tokens.size())];
      // Several pairs may spell one token, and a pair has one rank.
      if (!ranks.emplace(std::pair(left, right), rank).second) continue;
      add(left + right);
      merges.add(*vocabulary.find(left), *vocabulary.find(right),
                 {static_cast<std::uint32_t>(rank), *vocabulary.find(left + right)});
    }
    EXPECT_EQ(merges.size(), ranks.size());
    const BpeModel model(std::move(vocabulary), std::move(merges), {});
    BpeModel::Scratch scratch;
    for (int text_number = 0; text_number < 40; ++text_number) {
      const std::string text = random_text(random, alphabet, text_number < 30 ? 12 : 120);
      std::vector<TokenId> ids;
      model.encode(text, scratch, ids);
      reference::Symbols found;
      for (const TokenId id : ids) found.emplace_back(*model.vocabulary().token(id));
      ASSERT_EQ(found, reference::merge_pairs(characters_of(text), ranks)) << text;
    }
  }
}

std::string base64(const std::string& bytes) {
  static const std::string digits =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string text;
  for (std::size_t i = 0; i < bytes.size(); i += 3) {
    unsigned bits = 0;
    for (std::size_t k = 0; k < 3; ++k) {
      bits = bits << 8 | (i + k < bytes.size() ? static_cast<unsigned char>(bytes[i + k]) : 0u);
    }
    for (std::size_t k = 0; k < 4; ++k) {
      text += i + k > bytes.size() ? '=' : digits[bits >> (18 - 6 * k) & 63u];
    }
  }
  return text;
}

/// All bytes and some random longer tokens, whose ranks are in no order of length.
Tokens random_ranks(std::mt19937& random) {
  reference::Symbols tokens;
  for (int byte = 0; byte < 256; ++byte) tokens.emplace_back(1, static_cast<char>(byte));
  std::shuffle(tokens.begin(), tokens.end(), random);
  Tokens ranks;
  for (const std::string& token : tokens) ranks.emplace(token, ranks.size());
  for (int i = 0; i < 60; ++i) {
    std::string token = random_text(random, "ab ", 5);
    if (token.size() > 1) ranks.emplace(std::move(token), ranks.size());
  }
  return ranks;
}

std::string tiktoken_file(const Tokens& ranks) {
  std::string file;
  for (const auto& [token, rank] : ranks) {
    file += base64(token) + " " + std::to_string(rank) + "\n";
  }
  return file;
}

TEST(Tiktoken, AgreesWithTheDefinitionWithinEachWord) {
  std::mt19937 random(12);
  for (int round = 0; round < 30; ++round) {
    const Tokens ranks = random_ranks(random);
    const std::string file = tiktoken_file(ranks);
    ASSERT_TRUE(looks_like_tiktoken(file));
    const Tokenizer tokenizer = parse_tokenizer_tiktoken(file, "t");
    EXPECT_EQ(tokenizer.vocab_size(), ranks.size() + 256);
    for (int text_number = 0; text_number < 50; ++text_number) {
      // One word of the pattern: letters with at most one space before them.
      std::string word = random_text(random, "ab", 20);
      if (word.empty()) continue;
      if (text_number % 2 == 0) word.insert(word.begin(), ' ');
      std::vector<TokenId> expected;
      if (const auto whole = ranks.find(word); whole != ranks.end()) {
        expected.push_back(static_cast<TokenId>(whole->second));
      } else {
        for (const auto& token : reference::merge_tokens(characters_of(word), ranks)) {
          expected.push_back(static_cast<TokenId>(ranks.at(token)));
        }
      }
      EXPECT_EQ(tokenizer.encode(word, false), expected) << word;
      EXPECT_EQ(tokenizer.decode(expected), word);
    }
  }
}

TEST(Tiktoken, HasTheSpecialTokensOfLlama3BehindItsRanks) {
  std::mt19937 random(13);
  const Tokens ranks = random_ranks(random);
  const Tokenizer tokenizer = parse_tokenizer_tiktoken(tiktoken_file(ranks), "t");
  const auto first = static_cast<TokenId>(ranks.size());
  const std::vector<std::pair<std::string, TokenId>> expected{
      {"<|begin_of_text|>", 0},
      {"<|end_of_text|>", 1},
      {"<|finetune_right_pad_id|>", 4},
      {"<|start_header_id|>", 6},
      {"<|end_header_id|>", 7},
      {"<|eot_id|>", 9},
      {"<|python_tag|>", 10},
      {"<|reserved_special_token_3|>", 11},
      {"<|reserved_special_token_247|>", 255}};
  for (const auto& [name, offset] : expected) {
    EXPECT_EQ(tokenizer.find(name), first + offset) << name;
    EXPECT_TRUE(tokenizer.is_special(first + offset));
  }
  EXPECT_EQ(tokenizer.encode("\xC3\xA4<|eot_id|>"),
            (std::vector<TokenId>{first, static_cast<TokenId>(ranks.at("\xC3")),
                                  static_cast<TokenId>(ranks.at("\xA4")), first + 9}));
}

TEST(Tiktoken, DamagedFilesAreRefusedWithTheLine) {
  std::mt19937 random(14);
  const std::string sound = tiktoken_file(random_ranks(random));
  const auto refusal = [](const std::string& file) {
    return testing::input_error([&] { static_cast<void>(parse_tokenizer_tiktoken(file, "t")); });
  };
  EXPECT_NE(refusal(sound + "YWI= x\n").find("t: line "), std::string::npos);
  EXPECT_NE(refusal(sound + "Y!I= 9999\n").find("base64"), std::string::npos);
  EXPECT_NE(refusal(sound + "YWI 9999\n").find("base64"), std::string::npos);
  EXPECT_NE(refusal(sound + "YWI= -1\n").find("base64"), std::string::npos);
  EXPECT_NE(refusal(sound + "YWI= 99999999999\n").find("base64"), std::string::npos);
  EXPECT_NE(refusal(sound + sound.substr(0, sound.find('\n') + 1)).find("twice"),
            std::string::npos);
  EXPECT_NE(refusal(sound + base64(std::string(300, 'x')) + " 9999\n").find("256"),
            std::string::npos);
  EXPECT_NE(refusal("YWI= 0\n").find("each byte"), std::string::npos);
}

TEST(BytePairEncoding, LongRunsOfOneCharacterTakeNoQuadraticTime) {
  // A million characters each: in quadratic time the test would not end.
  for (const char* name : {"gpt2-bbpe", "llama2-spm-3k", "metaspace-spm", "llama3-bbpe-4k"}) {
    const Tokenizer tokenizer =
        load_tokenizer(testing::data_path(std::string("tokenizers/") + name));
    for (const char character : {'a', ' ', '\n', '\x01'}) {
      const std::string text(1'000'000, character);
      const std::string expected =
          name == std::string("metaspace-spm") && character == ' ' ? text.substr(1) : text;
      EXPECT_EQ(tokenizer.decode(tokenizer.encode(text, false)), expected) << name;
    }
  }
}

TEST(WordCache, RemembersWordsAndStaysSmall) {
  WordCache cache;
  std::vector<TokenId> tokens(3);
  const auto before = testing::resident_bytes();
  for (int i = 0; i < 1'000'000; ++i) {
    const std::string word = "word" + std::to_string(i);
    ASSERT_FALSE(cache.find(word).has_value());
    std::ranges::fill(tokens, i);
    cache.insert(word, tokens);
    const auto found = cache.find(word);
    ASSERT_TRUE(found.has_value());
    ASSERT_TRUE(std::ranges::equal(*found, tokens));
  }
  EXPECT_LT(testing::resident_bytes() - before, std::int64_t{32} << 20);
  const std::string long_word(WordCache::kLongestWord + 1, 'x');
  cache.insert(long_word, tokens);
  EXPECT_FALSE(cache.find(long_word).has_value());
}

}  // namespace
}  // namespace portolan
