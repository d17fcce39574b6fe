// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "models/tokenizers/bpe_merges.hpp"
#include "models/tokenizers/byte_tokens.hpp"
#include "models/tokenizers/vocabulary.hpp"
#include "models/tokenizers/word_encoder.hpp"

namespace portolan {

struct BpeOptions {
  /// Words come as bytes and are written in the byte-level alphabet (byte_level.hpp) first.
  bool byte_level = false;
  /// A word that is a token is that token, whether or not merges reach it.
  bool ignore_merges = false;
  /// A character that is no token becomes the tokens <0xNN> of its bytes, if there are all of them.
  bool byte_fallback = false;
  /// What else is no token becomes this one, or nothing.
  std::optional<TokenId> unknown;
  /// Neighbouring unknown characters become one token.
  bool fuse_unknown = false;
};

/// Turns words into tokens by byte pair encoding.
class BpeModel : public WordEncoder {
 public:
  BpeModel(Vocabulary vocabulary, BpeMerges merges, BpeOptions options);

  [[nodiscard]] const Vocabulary& vocabulary() const noexcept override { return vocabulary_; }
  void encode(std::string_view word, Scratch& scratch, std::vector<TokenId>& out) const override;

 private:
  [[nodiscard]] bool merges_stay_within_words() const;
  void encode_cached(std::string_view word, Scratch& scratch, std::vector<TokenId>& out) const;
  void encode_word(std::string_view word, Scratch& scratch) const;
  void append_symbols(std::string_view word, std::vector<TokenId>& symbols) const;
  [[nodiscard]] std::optional<TokenId> find_character(std::string_view character) const;

  Vocabulary vocabulary_;
  BpeMerges merges_;
  BpeOptions options_;
  ByteTokens bytes_;
  std::array<TokenId, 128> ascii_;  ///< tokens of one byte; -1 where there is none
  /// No merge joins a character with a space marker behind it, so that text falls into words that
  /// can be encoded one by one although nothing has split it.
  bool splits_at_markers_ = false;
};

}  // namespace portolan
