// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string_view>
#include <vector>

#include "models/tokenizers/byte_tokens.hpp"
#include "models/tokenizers/piece_trie.hpp"
#include "models/tokenizers/vocabulary.hpp"
#include "models/tokenizers/word_encoder.hpp"

namespace portolan {

/// In what the two libraries that have such models differ.
enum class UnigramRules {
  huggingface,  ///< adds scores in f64; unknown characters that spell a token become that token
  /// Adds scores in f32, and from where the sum is beyond 100 000 anew; unknown characters stay so.
  sentencepiece,
};

struct UnigramOptions {
  UnigramRules rules = UnigramRules::huggingface;
  /// What characters become that no token covers. Without it a text that has some is refused.
  std::optional<TokenId> unknown;
  /// Of one such character.
  double unknown_score = 0.0;
  /// Words come as bytes and are written in the byte-level alphabet (byte_level.hpp) first.
  bool byte_level = false;
  /// Such characters become the tokens <0xNN> of their bytes, if there are all of them.
  bool byte_fallback = false;
};

/// What is taken off the lowest score of a token to get that of an unknown character.
inline constexpr float kUnknownPenalty = 10.0F;

/// Turns words into the tokens whose scores, logarithms of probabilities, have the highest sum
/// (Kudo, "Subword Regularization: Improving Neural Network Translation Models with Multiple
/// Subword Candidates", 2018): the best path to each place is the best of those that end with a
/// token there (Viterbi), the one with the longest last token among equals. Time and memory are
/// linear in the word, whatever it is, for tokens of bounded length.
class UnigramModel : public WordEncoder {
 public:
  /// `scores` by id, of all tokens; those without a score are not found in text.
  UnigramModel(Vocabulary vocabulary, std::vector<std::optional<double>> scores,
               UnigramOptions options);

  [[nodiscard]] const Vocabulary& vocabulary() const noexcept override { return vocabulary_; }
  /// Throws UsageError for an unknown character if nothing stands for it.
  void encode(std::string_view word, Scratch& scratch, std::vector<TokenId>& out) const override;

 private:
  void encode_word(std::string_view word, Scratch& scratch) const;
  void find_paths(std::string_view word, std::vector<PathEnd>& ends) const;
  void start_anew(std::size_t begin, std::vector<PathEnd>& ends) const;
  void append_unknown(std::string_view text, std::vector<TokenId>& symbols) const;

  Vocabulary vocabulary_;
  UnigramOptions options_;
  ByteTokens bytes_;
  PieceTrie pieces_;
  std::vector<double> scores_;
};

}  // namespace portolan
