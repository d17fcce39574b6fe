// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "models/tokenizers/bpe_merges.hpp"
#include "models/tokenizers/vocabulary.hpp"
#include "models/tokenizers/word_cache.hpp"

namespace portolan {

/// The best way to cut a word into tokens up to one of its places.
struct PathEnd {
  double score;         ///< sum over its tokens
  std::uint32_t start;  ///< of the last of them
  TokenId token;        ///< the last of them
};

/// Turns the words that a text was split into into tokens.
class WordEncoder {
 public:
  /// Memory that calls reuse, and what they remember. Not to be shared by threads, nor by encoders.
  struct Scratch {
    BpeMerges::Scratch merges;
    std::vector<PathEnd> path_ends;
    WordCache cache;
    std::vector<TokenId> symbols;
    std::string byte_level_word;
  };

  virtual ~WordEncoder() = default;
  [[nodiscard]] virtual const Vocabulary& vocabulary() const noexcept = 0;
  /// Appends the tokens of `word`, which must be UTF-8.
  virtual void encode(std::string_view word, Scratch& scratch, std::vector<TokenId>& out) const = 0;

 protected:
  WordEncoder() = default;
  WordEncoder(const WordEncoder&) = default;
  WordEncoder(WordEncoder&&) = default;
  WordEncoder& operator=(const WordEncoder&) = default;
  WordEncoder& operator=(WordEncoder&&) = default;

  /// Appends what is remembered of `word`, else what `encode_word` leaves in scratch.symbols.
  template <typename EncodeWord>
  static void encode_remembered(std::string_view word, Scratch& scratch, std::vector<TokenId>& out,
                                const EncodeWord& encode_word) {
    const bool remember = word.size() <= WordCache::kLongestWord;
    if (remember) {
      if (const auto known = scratch.cache.find(word)) {
        out.insert(out.end(), known->begin(), known->end());
        return;
      }
    }
    encode_word();
    out.insert(out.end(), scratch.symbols.begin(), scratch.symbols.end());
    if (remember) scratch.cache.insert(word, scratch.symbols);
  }
};

}  // namespace portolan
