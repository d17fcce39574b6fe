// SPDX-License-Identifier: Apache-2.0
#include "models/tokenizers/tokenizer.hpp"

#include <limits>
#include <mutex>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "core/error.hpp"
#include "models/tokenizers/unicode_text.hpp"

namespace portolan {

std::string_view name_of(TokenizerFormat format) {
  switch (format) {
    case TokenizerFormat::huggingface:
      return "tokenizer.json";
    case TokenizerFormat::sentencepiece:
      return "SentencePiece";
    case TokenizerFormat::tiktoken:
      return "tiktoken";
  }
  return "unknown";
}

struct Tokenizer::State {
  explicit State(TokenizerParts all) : parts(std::move(all)) {
    for (const AddedToken& token : parts.added_tokens) {
      if (!parts.model->vocabulary().token(token.id)) added.add(token.content, token.id);
      if (token.special) special_ids.insert(token.id);
      if (token.decoded) decoded.emplace(token.id, *token.decoded);
      if (!token.pattern.empty()) (token.normalized ? in_normalized : in_text).add(token);
    }
  }

  void encode(std::string_view text, WordEncoder::Scratch& scratch,
              std::vector<TokenId>& out) const {
    in_text.split(text, [&](std::string_view part, std::optional<TokenId> id) {
      if (id) return out.push_back(*id);
      const bool at_start = part.data() == text.data();
      if (parts.normalizer.empty()) return encode_normalized(part, at_start, scratch, out);
      encode_normalized(parts.normalizer.apply(std::string(part)), at_start, scratch, out);
    });
  }

  void encode_normalized(std::string_view text, bool at_start, WordEncoder::Scratch& scratch,
                         std::vector<TokenId>& out) const {
    in_normalized.split(text, [&](std::string_view part, std::optional<TokenId> id) {
      if (id) return out.push_back(*id);
      parts.pre_tokenizer.split(
          {part, at_start && part.data() == text.data()},
          [&](const TextPiece& word) { parts.model->encode(word.text, scratch, out); });
    });
  }

  TokenizerParts parts;
  /// Added tokens that the model's vocabulary lacks.
  Vocabulary added;
  AddedTokenMatcher in_text;
  AddedTokenMatcher in_normalized;
  /// Added tokens whose text in decoding is not how they are written.
  std::unordered_map<TokenId, std::string> decoded;
  std::unordered_set<TokenId> special_ids;

  /// Of the thread that holds `busy`; others make do with memory of their own.
  std::mutex busy;
  WordEncoder::Scratch scratch;
};

Tokenizer::Tokenizer(TokenizerParts parts) : state_(std::make_unique<State>(std::move(parts))) {}
Tokenizer::~Tokenizer() = default;
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;

std::vector<TokenId> Tokenizer::encode(std::string_view text, bool add_special) const {
  constexpr auto kMostBytes = static_cast<std::size_t>(std::numeric_limits<std::int32_t>::max());
  require(text.size() <= kMostBytes, "a text has at most {} bytes, this one has {}", kMostBytes,
          text.size());
  if (const auto invalid = find_invalid_utf8(text)) {
    throw UsageError(
        fmt::format("the text is not UTF-8: byte {} belongs to no character", *invalid));
  }
  const PostProcessor& around = state_->parts.post_processor;
  std::vector<TokenId> ids;
  if (add_special) ids = around.prefix;
  const std::unique_lock lock(state_->busy, std::try_to_lock);
  if (lock.owns_lock()) {
    state_->encode(text, state_->scratch, ids);
  } else {
    WordEncoder::Scratch scratch;
    state_->encode(text, scratch, ids);
  }
  if (add_special) ids.insert(ids.end(), around.suffix.begin(), around.suffix.end());
  return ids;
}

std::string Tokenizer::decode(std::span<const TokenId> ids, bool skip_special) const {
  StreamingDecoder decoder(*this, skip_special);
  std::string text;
  for (const TokenId id : ids) text += decoder.push(id);
  return text += decoder.finish();
}

std::size_t Tokenizer::vocab_size() const noexcept {
  return state_->parts.model->vocabulary().size() + state_->added.size();
}

std::optional<TokenId> Tokenizer::find(std::string_view token) const {
  const auto id = state_->added.find(token);
  return id ? id : state_->parts.model->vocabulary().find(token);
}

std::optional<std::string_view> Tokenizer::token(TokenId id) const {
  const auto token = state_->parts.model->vocabulary().token(id);
  return token ? token : state_->added.token(id);
}

bool Tokenizer::is_special(TokenId id) const { return state_->special_ids.contains(id); }

const SpecialTokens& Tokenizer::special() const noexcept { return state_->parts.special; }

std::vector<TokenId> Tokenizer::end_tokens() const {
  std::vector<TokenId> ids;
  if (special().eos) ids.push_back(*special().eos);
  for (const std::string_view name : {"<|eom_id|>", "<|eot_id|>"}) {
    // A tokenizer may have eos be one of them, and a text may have a word of that name.
    const std::optional<TokenId> id = find(name);
    if (id && is_special(*id) && id != special().eos) ids.push_back(*id);
  }
  return ids;
}

void Tokenizer::set_special(const SpecialTokens& special) { state_->parts.special = special; }

void Tokenizer::set_post_processor(PostProcessor post_processor) {
  state_->parts.post_processor = std::move(post_processor);
}

TokenizerFormat Tokenizer::format() const noexcept { return state_->parts.format; }

bool Tokenizer::finds_special_in_text() const noexcept {
  return format() != TokenizerFormat::sentencepiece;
}

std::optional<std::string_view> Tokenizer::decoded_token(TokenId id) const {
  const auto found = state_->decoded.find(id);
  if (found != state_->decoded.end()) return found->second;
  return token(id);
}

const Decoder& Tokenizer::decoder() const noexcept { return state_->parts.decoder; }

StreamingDecoder::StreamingDecoder(const Tokenizer& tokenizer, bool skip_special)
    : tokenizer_(&tokenizer), run_(tokenizer.decoder()), skip_special_(skip_special) {}

std::string StreamingDecoder::push(TokenId id) {
  std::string text;
  const auto token = tokenizer_->decoded_token(id);
  if (token && !(skip_special_ && tokenizer_->is_special(id))) run_.push(*token, text);
  return text;
}

std::string StreamingDecoder::finish() {
  std::string text;
  run_.finish(text);
  return text;
}

}  // namespace portolan
