// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/json_file.hpp"

/// Turning tokens back into text, one token after the other, so that decoding at once and decoding
/// as tokens arrive are the same thing.
namespace portolan {

/// A part of a token on its way to text. Steps that join tokens make one of many parts.
struct TokenPart {
  std::string_view text;  ///< whole characters, unless a step says otherwise
  bool begins = true;     ///< nothing of its token came before
  bool ends = true;       ///< nothing of its token follows
};

using TokenPartSink = std::function<void(const TokenPart&)>;

/// One step while it runs.
class DecoderStage {
 public:
  virtual ~DecoderStage() = default;
  virtual void push(const TokenPart& part, const TokenPartSink& sink) = 0;
  /// After the last token.
  virtual void finish(const TokenPartSink& sink) = 0;
};

/// The steps of a tokenizer.
class Decoder {
 public:
  using Step = std::function<std::unique_ptr<DecoderStage>()>;

  void add(Step step) { steps_.push_back(std::move(step)); }
  [[nodiscard]] std::vector<std::unique_ptr<DecoderStage>> start() const;

 private:
  std::vector<Step> steps_;
};

/// Tokens to text by the steps of a decoder, which it holds no reference to.
class DecoderRun {
 public:
  explicit DecoderRun(const Decoder& decoder) : stages_(decoder.start()) {}

  /// Appends to `text` what is certain now that `token` has come.
  void push(std::string_view token, std::string& text) { pass(0, {token}, text); }
  /// Appends the rest.
  void finish(std::string& text);

 private:
  void pass(std::size_t stage, const TokenPart& part, std::string& text);

  std::vector<std::unique_ptr<DecoderStage>> stages_;
};

/// What tokenizer.json says under `decoder`. Throws InputError for what it does not know.
[[nodiscard]] Decoder read_decoder(const JsonObject& object);

/// What becomes of space markers before any other text.
enum class LeadingMarkers { keep, drop_first, drop_all };

/// The decoder of files that name none: tokens with spaces between them.
[[nodiscard]] Decoder make_joining_decoder();
/// Tokens in the byte-level alphabet; one U+FFFD for each maximal part that is not UTF-8.
[[nodiscard]] Decoder make_byte_level_decoder();
/// As SentencePiece decodes: see make_sentencepiece_stage.
[[nodiscard]] Decoder make_sentencepiece_decoder(LeadingMarkers leading);

}  // namespace portolan
