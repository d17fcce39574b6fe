// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <string>

#include "models/tokenizers/word_encoder.hpp"

namespace portolan {

struct WordPieceOptions {
  /// What a word becomes that cannot be made of tokens.
  TokenId unknown = 0;
  /// Stands before tokens that continue a word.
  std::string continuing_prefix = "##";
  /// In characters; longer words are unknown.
  std::size_t longest_word = 100;
};

/// Turns words into tokens from left to right, the longest that fits each time (Wu et al. 2016,
/// arXiv:1609.08144, as BERT has it).
class WordPieceModel : public WordEncoder {
 public:
  WordPieceModel(Vocabulary vocabulary, WordPieceOptions options);

  [[nodiscard]] const Vocabulary& vocabulary() const noexcept override { return vocabulary_; }
  void encode(std::string_view word, Scratch& scratch, std::vector<TokenId>& out) const override;

 private:
  void encode_word(std::string_view word, std::vector<TokenId>& symbols) const;

  Vocabulary vocabulary_;
  WordPieceOptions options_;
};

}  // namespace portolan
