// SPDX-License-Identifier: Apache-2.0
// Unigram segmentation against its definition, and the rules that the two libraries have of their
// own.
#include <gtest/gtest.h>

#include <random>

#include "core/error.hpp"
#include "models/tokenizers/piece_trie.hpp"
#include "models/tokenizers/token_fields.hpp"
#include "models/tokenizers/unigram_model.hpp"
#include "tests/reference/unigram_reference.hpp"
#include "tests/unit/tokenizer_testing.hpp"

namespace portolan {
namespace {

using Ids = std::vector<TokenId>;
using Scores = std::map<std::string, double>;

constexpr TokenId kUnknown = 0;

std::string random_text(std::mt19937& random, const std::string& alphabet, std::size_t longest) {
  std::string text(random() % (longest + 1), ' ');
  for (char& character : text) character = alphabet[random() % alphabet.size()];
  return text;
}

/// A model of "<unk>" and `pieces`, with ids in their order.
UnigramModel make_model(const std::vector<std::pair<std::string, double>>& pieces,
                        UnigramOptions options = {.unknown = kUnknown, .unknown_score = -100}) {
  Vocabulary vocabulary;
  vocabulary.add("<unk>", kUnknown);
  std::vector<std::optional<double>> scores{std::nullopt};
  for (const auto& [text, score] : pieces) {
    vocabulary.add(text, static_cast<TokenId>(scores.size()));
    scores.emplace_back(score);
  }
  return {std::move(vocabulary), std::move(scores), options};
}

Ids encode(const UnigramModel& model, std::string_view text) {
  UnigramModel::Scratch scratch;
  Ids ids;
  model.encode(text, scratch, ids);
  return ids;
}

/// What `ids` spell, with "?" for what is unknown.
std::vector<std::string> texts_of(const UnigramModel& model, const Ids& ids) {
  std::vector<std::string> texts;
  for (const TokenId id : ids) {
    texts.emplace_back(id == kUnknown ? "?" : *model.vocabulary().token(id));
  }
  return texts;
}

/// The same of pieces: those that no score is known of become one "?".
std::vector<std::string> fuse_unknown(const std::vector<std::string>& pieces,
                                      const Scores& scores) {
  std::vector<std::string> result;
  bool after_unknown = false;
  for (const std::string& piece : pieces) {
    const bool is_unknown = !scores.contains(piece);
    if (!(is_unknown && after_unknown)) result.push_back(is_unknown ? "?" : piece);
    after_unknown = is_unknown;
  }
  return result;
}

TEST(Unigram, AgreesWithItsDefinition) {
  std::mt19937 random(21);
  // Coarse enough for sums to be exact, and often the same.
  const auto score = [&] { return -1.0 - static_cast<double>(random() % 64) / 8; };
  for (int round = 0; round < 200; ++round) {
    Scores scores;
    // Not every character is a piece.
    for (std::size_t i = 0; i < 1 + random() % 30; ++i) {
      const std::string piece = random_text(random, "abcd", 5);
      if (!piece.empty()) scores.emplace(piece, score());
    }
    const double unknown = -9.0 + score();
    const UnigramModel model =
        make_model({scores.begin(), scores.end()}, {.unknown = kUnknown, .unknown_score = unknown});
    for (int number = 0; number < 40; ++number) {
      const std::string text = random_text(random, "abcd", number < 30 ? 12 : 120);
      ASSERT_EQ(texts_of(model, encode(model, text)),
                fuse_unknown(reference::best_segmentation(text, scores, unknown), scores))
          << text;
    }
  }
}

TEST(Unigram, OfEqualsTheLongestLastTokenWins) {
  // a+a = aa, and ab+c = a+bc.
  EXPECT_EQ(encode(make_model({{"a", -1}, {"aa", -2}}), "aa"), Ids{2});
  EXPECT_EQ(encode(make_model({{"a", -1}, {"ab", -2}, {"bc", -2}, {"c", -1}}), "abc"), (Ids{1, 3}));
}

TEST(Unigram, SentencePieceRoundsSumsToSinglePrecision) {
  const std::vector<std::pair<std::string, double>> pieces{
      {"x", -99'999}, {"b", -1e-3}, {"c", -1e-3}, {"bc", -3e-3}, {"y", -1.5}};
  const auto with = [&](UnigramRules rules) {
    return make_model(pieces, {.rules = rules, .unknown = kUnknown, .unknown_score = -100});
  };
  EXPECT_EQ(encode(with(UnigramRules::huggingface), "xbc"), (Ids{1, 2, 3}));
  // Next to the first score the others round to nothing, and then the piece that came first stays,
  EXPECT_EQ(encode(with(UnigramRules::sentencepiece), "xbc"), (Ids{1, 4}));
  // but not once the sum has become so large that it is started anew.
  EXPECT_EQ(encode(with(UnigramRules::sentencepiece), "xybc"), (Ids{1, 5, 2, 3}));
}

TEST(Unigram, UnknownCharactersAreATokenOrBytesOrRefused) {
  const std::vector<std::pair<std::string, double>> pieces{
      {"a", -1}, {"yy", -300}, {"<0xC3>", -50}, {"<0xA4>", -50}};
  UnigramOptions options{.unknown = kUnknown, .unknown_score = -100};
  // Both are unknown, and one token beside known ones.
  EXPECT_EQ(encode(make_model(pieces, options), "azya\xC3\xA4z"), (Ids{1, 0, 1, 0}));
  // As a run of unknown characters, yy is cheaper than as the token, and becomes that all the same.
  EXPECT_EQ(encode(make_model(pieces, options), "ayya"), (Ids{1, 2, 1}));
  options.byte_fallback = true;
  EXPECT_EQ(encode(make_model(pieces, options), "a\xC3\xA4z"), (Ids{1, 0})) << "z has no byte";
  EXPECT_EQ(encode(make_model(pieces, options), "a\xC3\xA4\xC3\xA4"), (Ids{1, 3, 4, 3, 4}));
  options.rules = UnigramRules::sentencepiece;
  EXPECT_EQ(encode(make_model(pieces, options), "ayya"), (Ids{1, 0, 1}));
  options.byte_fallback = false;
  options.unknown.reset();
  EXPECT_EQ(encode(make_model(pieces, options), "aa"), (Ids{1, 1}));
  EXPECT_THROW(encode(make_model(pieces, options), "aza"), UsageError);
}

TEST(Unigram, ScoresOfTokenizerJsonAreReadByOneDivision) {
  // What tokenizers 0.23.3 makes of these numbers.
  EXPECT_EQ(as_huggingface_reads(-3.7415764331817627), -3.7415764331817623);
  EXPECT_EQ(as_huggingface_reads(-7.2083821296691895), -7.208382129669189);
  EXPECT_EQ(as_huggingface_reads(-5.4393157958984375), -5.4393157958984375);
  for (const double value : {0.0, 1.0, -10.0, 0.5, 1e22, 12345678.0, 1e300, -1e-300}) {
    EXPECT_EQ(as_huggingface_reads(value), value);
  }
  EXPECT_NEAR(as_huggingface_reads(4.9406564584124654e-324), 4.94e-324, 1e-323);
  EXPECT_EQ(as_huggingface_reads(1.7976931348623157e308), 1.7976931348623157e308);
}

TEST(Unigram, LongTextsTakeNoQuadraticTime) {
  // A million characters each: in quadratic time the test would not end.
  for (const char* name : {"xlm-roberta-unigram", "unigram-spm", "unigram-spm/tokenizer.model"}) {
    const Tokenizer tokenizer =
        load_tokenizer(testing::data_path(std::string("tokenizers/") + name));
    for (const char character : {'e', ' ', '\x01'}) {
      const std::string text(1'000'000, character);
      EXPECT_LE(tokenizer.encode(text, false).size(), text.size() + 1) << name;
    }
  }
}

TEST(PieceTrie, FindsWhatTextStartsWith) {
  std::mt19937 random(22);
  for (int round = 0; round < 100; ++round) {
    std::map<std::string, TokenId> ids;
    for (std::size_t i = 0; i < random() % 40; ++i) {
      ids.emplace(random_text(random, "ab\xFF", 6), static_cast<TokenId>(i));
    }
    std::vector<PieceTrie::Piece> pieces;
    for (const auto& [text, id] : ids) pieces.push_back({text, id});
    std::ranges::shuffle(pieces, random);
    const PieceTrie trie(pieces);
    for (int number = 0; number < 50; ++number) {
      const std::string text = random_text(random, "ab\xFF", 8);
      std::vector<std::pair<std::size_t, TokenId>> expected;
      for (std::size_t length = 1; length <= text.size(); ++length) {
        const auto piece = ids.find(text.substr(0, length));
        if (piece != ids.end()) expected.emplace_back(length, piece->second);
      }
      std::vector<std::pair<std::size_t, TokenId>> found;
      trie.for_each_prefix(text,
                           [&](std::size_t length, TokenId id) { found.emplace_back(length, id); });
      ASSERT_EQ(found, expected) << text;
    }
  }
  EXPECT_TRUE(PieceTrie().empty());
  PieceTrie().for_each_prefix("a", [](std::size_t, TokenId) { ADD_FAILURE(); });
}

}  // namespace
}  // namespace portolan
