// SPDX-License-Identifier: Apache-2.0
#include "models/tokenizers/unigram_model.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "core/error.hpp"
#include "core/printable.hpp"
#include "models/tokenizers/byte_level.hpp"

namespace portolan {
namespace {

constexpr std::uint32_t kUnreached = std::numeric_limits<std::uint32_t>::max();
constexpr TokenId kNoToken = -1;
constexpr std::size_t kLongestCharacter = 4;
/// In f32 a score next to larger sums would count for less and less.
constexpr double kLargestSum = 100'000.0;

double to_single(double value) { return static_cast<double>(static_cast<float>(value)); }

/// Turns the path that leads to the last of `ends` round: from then on PathEnd::start is where the
/// next token of the path ends, PathEnd::token still the one that ends there.
void turn_round(std::vector<PathEnd>& ends) {
  auto end = static_cast<std::uint32_t>(ends.size() - 1);
  std::uint32_t next = kUnreached;
  while (end != 0) {
    const std::uint32_t start = std::exchange(ends[end].start, next);
    next = end;
    end = start;
  }
  ends[0].start = next;
}

}  // namespace

UnigramModel::UnigramModel(Vocabulary vocabulary, std::vector<std::optional<double>> scores,
                           UnigramOptions options)
    : vocabulary_(std::move(vocabulary)), options_(options), bytes_(vocabulary_) {
  std::vector<PieceTrie::Piece> pieces;
  for (std::size_t i = 0; i < scores.size(); ++i) {
    const auto id = static_cast<TokenId>(i);
    scores_.push_back(scores[i].value_or(0.0));
    if (scores[i]) pieces.push_back({vocabulary_.token(id).value_or(""), id});
  }
  pieces_ = PieceTrie(std::move(pieces));
}

void UnigramModel::encode(std::string_view word, Scratch& scratch,
                          std::vector<TokenId>& out) const {
  encode_remembered(word, scratch, out, [&] { encode_word(word, scratch); });
}

void UnigramModel::encode_word(std::string_view word, Scratch& scratch) const {
  if (options_.byte_level) {
    scratch.byte_level_word.clear();
    append_byte_level(scratch.byte_level_word, word);
    word = scratch.byte_level_word;
  }
  std::vector<PathEnd>& ends = scratch.path_ends;
  find_paths(word, ends);
  turn_round(ends);
  std::vector<TokenId>& symbols = scratch.symbols;
  symbols.clear();
  const TokenId unknown = options_.unknown.value_or(kNoToken);
  for (std::size_t begin = 0; begin < word.size();) {
    std::size_t end = ends[begin].start;
    if (ends[end].token == unknown) {
      // Neighbours become one.
      while (end < word.size() && ends[ends[end].start].token == unknown) end = ends[end].start;
      append_unknown(word.substr(begin, end - begin), symbols);
    } else {
      symbols.push_back(ends[end].token);
    }
    begin = end;
  }
}

void UnigramModel::find_paths(std::string_view word, std::vector<PathEnd>& ends) const {
  require(word.size() < kUnreached, "a text has at most {} bytes once it is normalized",
          kUnreached - 1);
  const bool single = options_.rules == UnigramRules::sentencepiece;
  ends.assign(word.size() + 1, {0.0, kUnreached, kNoToken});
  for (std::size_t begin = 0; begin < word.size();) {
    if (single && std::abs(ends[begin].score) > kLargestSum) start_anew(begin, ends);
    const double before = ends[begin].score;
    const auto offer = [&](std::size_t length, double score, TokenId token) {
      const double sum = single ? to_single(before + score) : before + score;
      PathEnd& end = ends[begin + length];
      if (end.start == kUnreached || sum > end.score) {
        end = {sum, static_cast<std::uint32_t>(begin), token};
      }
    };
    const std::string_view rest = word.substr(begin);
    const std::size_t character = utf8_character_length(rest);
    bool covered = false;
    pieces_.for_each_prefix(rest, [&](std::size_t length, TokenId token) {
      offer(length, scores_[static_cast<std::size_t>(token)], token);
      covered |= length == character;
    });
    if (!covered) offer(character, options_.unknown_score, options_.unknown.value_or(kNoToken));
    begin += character;
  }
}

void UnigramModel::start_anew(std::size_t begin, std::vector<PathEnd>& ends) const {
  const double sum = ends[begin].score;
  // Tokens that start before `begin` reach no farther.
  const std::size_t reach = std::max(vocabulary_.longest(), kLongestCharacter);
  for (std::size_t i = begin; i < std::min(ends.size(), begin + reach); ++i) {
    if (i == begin || ends[i].start != kUnreached) ends[i].score = to_single(ends[i].score - sum);
  }
}

void UnigramModel::append_unknown(std::string_view text, std::vector<TokenId>& symbols) const {
  if (options_.rules == UnigramRules::huggingface) {
    if (const auto token = vocabulary_.find(text)) return symbols.push_back(*token);
  }
  if (options_.byte_fallback && bytes_.append(text, symbols)) return;
  if (!options_.unknown) {
    throw UsageError(fmt::format("the tokenizer has no token for '{}'", printable(text)));
  }
  symbols.push_back(*options_.unknown);
}

}  // namespace portolan
