// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "models/tokenizers/added_tokens.hpp"
#include "models/tokenizers/decoder.hpp"
#include "models/tokenizers/normalizer.hpp"
#include "models/tokenizers/post_processor.hpp"
#include "models/tokenizers/pre_tokenizer.hpp"
#include "models/tokenizers/vocabulary.hpp"
#include "models/tokenizers/word_encoder.hpp"

namespace portolan {

enum class TokenizerFormat {
  huggingface,    ///< tokenizer.json
  sentencepiece,  ///< tokenizer.model of SentencePiece
  tiktoken,       ///< tokenizer.model of LLaMA 3: base64 text and rank on each line
};

/// "tokenizer.json", "SentencePiece", "tiktoken".
[[nodiscard]] std::string_view name_of(TokenizerFormat format);

/// Tokens that have a meaning of their own; absent where there is no such token.
struct SpecialTokens {
  std::optional<TokenId> bos;
  std::optional<TokenId> eos;
  std::optional<TokenId> unknown;
  std::optional<TokenId> pad;
  std::optional<TokenId> mask;
};

/// What a tokenizer is made of, in the order in which text goes through it.
struct TokenizerParts {
  TokenizerFormat format;
  std::vector<AddedToken> added_tokens;
  Normalizer normalizer;
  PreTokenizer pre_tokenizer;
  std::unique_ptr<const WordEncoder> model;
  PostProcessor post_processor;
  Decoder decoder;
  SpecialTokens special;
};

/// Text to token ids and back. Threads may share one.
class Tokenizer {
 public:
  explicit Tokenizer(TokenizerParts parts);
  ~Tokenizer();
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;

  /// The ids of `text`, with the special tokens that go round a text unless told otherwise. Special
  /// tokens written in the text are recognised, except by SentencePiece, which takes them for text.
  /// Throws UsageError if `text` is not UTF-8. Time is n log n in the worst case.
  [[nodiscard]] std::vector<TokenId> encode(std::string_view text, bool add_special = true) const;

  /// The text of `ids`: always UTF-8. Ids without a token have no text.
  [[nodiscard]] std::string decode(std::span<const TokenId> ids, bool skip_special = false) const;

  /// Tokens, added ones included.
  [[nodiscard]] std::size_t vocab_size() const noexcept;
  [[nodiscard]] std::optional<TokenId> find(std::string_view token) const;
  /// As it stands in the vocabulary.
  [[nodiscard]] std::optional<std::string_view> token(TokenId id) const;
  /// Whether decoding may skip it.
  [[nodiscard]] bool is_special(TokenId id) const;
  [[nodiscard]] const SpecialTokens& special() const noexcept;
  /// The tokens that end a text: eos, and those of LLaMA 3 that end a message (<|eom_id|>) or a
  /// turn
  /// (<|eot_id|>) of a conversation. For models whose configuration names none.
  [[nodiscard]] std::vector<TokenId> end_tokens() const;
  void set_special(const SpecialTokens& special);
  /// What goes round texts.
  void set_post_processor(PostProcessor post_processor);
  [[nodiscard]] TokenizerFormat format() const noexcept;
  /// Whether special tokens written in text are recognised.
  [[nodiscard]] bool finds_special_in_text() const noexcept;

 private:
  friend class StreamingDecoder;
  /// What decoders take for an id; nothing for an id without a token.
  [[nodiscard]] std::optional<std::string_view> decoded_token(TokenId id) const;
  [[nodiscard]] const Decoder& decoder() const noexcept;

  struct State;
  std::unique_ptr<State> state_;
};

/// Text of tokens as they arrive: what push() and finish() give, put together, is what decode()
/// gives for all ids, and each piece is whole characters. Bytes are held back until they are a
/// character, and by decoders with byte fallback until the run of bytes has ended.
class StreamingDecoder {
 public:
  /// `tokenizer` must live as long.
  explicit StreamingDecoder(const Tokenizer& tokenizer, bool skip_special = false);

  [[nodiscard]] std::string push(TokenId id);
  /// The rest. Nothing may follow.
  [[nodiscard]] std::string finish();

 private:
  const Tokenizer* tokenizer_;
  DecoderRun run_;
  bool skip_special_;
};

/// Reads tokenizer.json, a SentencePiece model or a tiktoken file (told apart by content); or, from
/// a model's folder, its tokenizer.json, else its tokenizer.model, with the special tokens that
/// tokenizer_config.json and special_tokens_map.json name and, round texts of a tokenizer.model,
/// those that they ask for (add_bos_token, add_eos_token; by default the first alone). Throws
/// InputError, one line that starts with the path, for what is not sound or not known.
[[nodiscard]] Tokenizer load_tokenizer(const std::filesystem::path& path);

/// The file that load_tokenizer reads from a folder; nothing if there is none.
[[nodiscard]] std::optional<std::filesystem::path> find_tokenizer(
    const std::filesystem::path& folder);

}  // namespace portolan
