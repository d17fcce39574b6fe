// SPDX-License-Identifier: Apache-2.0
#include "models/tokenizers/tokenizer_sentencepiece.hpp"

#include <algorithm>
#include <functional>
#include <memory>
#include <utility>

#include "core/error.hpp"
#include "core/printable.hpp"
#include "models/tokenizers/bpe_model.hpp"
#include "models/tokenizers/sentencepiece_model.hpp"

namespace portolan {
namespace {

using PieceType = SentencePieceModel::PieceType;

void require_supported(const SentencePieceModel& model, const std::string& source) {
  const auto refuse = [&](std::string_view what) {
    throw UnsupportedError(
        fmt::format("{}: SentencePiece model {} is not supported: expected byte pair encoding "
                    "as LLaMA 2 and Mistral use it",
                    source, what));
  };
  if (model.type != SentencePieceModel::ModelType::bpe) refuse("of another type than BPE");
  if (model.has_character_map) refuse("with a normalization table");
  if (model.space_after_word) refuse("with spaces behind words");
  if (!model.escape_whitespaces) refuse("without space markers");
  if (std::ranges::any_of(model.pieces,
                          [](const auto& piece) { return piece.type == PieceType::unused; })) {
    refuse("with unused pieces");
  }
}

/// Ranks by score: the highest goes first, and equals have one rank.
std::vector<std::uint32_t> ranks_of(const SentencePieceModel& model) {
  std::vector<float> scores;
  for (const auto& piece : model.pieces) scores.push_back(piece.score);
  std::ranges::sort(scores, std::greater<>());
  scores.erase(std::unique(scores.begin(), scores.end()), scores.end());
  std::vector<std::uint32_t> ranks;
  for (const auto& piece : model.pieces) {
    const auto place = std::ranges::lower_bound(scores, piece.score, std::greater<>());
    ranks.push_back(static_cast<std::uint32_t>(place - scores.begin()));
  }
  return ranks;
}

/// SentencePiece joins two neighbours whenever what they spell is a piece, so each way to cut a
/// piece into two pieces is a merge.
BpeMerges make_merges(const SentencePieceModel& model, const Vocabulary& vocabulary) {
  const auto normal_id = [&](std::string_view text) -> std::optional<TokenId> {
    const auto id = vocabulary.find(text);
    if (id && model.pieces[static_cast<std::size_t>(*id)].type != PieceType::normal) {
      return std::nullopt;
    }
    return id;
  };
  const std::vector<std::uint32_t> ranks = ranks_of(model);
  BpeMerges merges(model.pieces.size());
  for (std::size_t i = 0; i < model.pieces.size(); ++i) {
    if (model.pieces[i].type != PieceType::normal) continue;
    const std::string_view text = model.pieces[i].text;
    for (std::size_t cut = utf8_character_length(text); cut < text.size();
         cut += utf8_character_length(text.substr(cut))) {
      const auto left = normal_id(text.substr(0, cut));
      const auto right = left ? normal_id(text.substr(cut)) : std::nullopt;
      if (right) merges.add(*left, *right, {ranks[i], static_cast<TokenId>(i)});
    }
  }
  return merges;
}

/// Only pieces that users defined are looked for in text, after it has been normalized.
AddedToken make_added_token(const SentencePieceModel::Piece& piece, TokenId id) {
  AddedToken token;
  token.content = piece.text;
  token.id = id;
  token.special = piece.type != PieceType::user_defined;
  token.normalized = true;
  if (!token.special) token.pattern = piece.text;
  return token;
}

Normalizer make_normalizer(const SentencePieceModel& model) {
  std::vector<std::unique_ptr<const NormalizerStep>> steps;
  if (model.remove_extra_whitespaces) steps.push_back(make_collapse_spaces());
  if (model.add_dummy_prefix) steps.push_back(make_prepend(" "));
  steps.push_back(make_replace(" ", std::string(kSpaceMarker)));
  return Normalizer(std::move(steps));
}

}  // namespace

Tokenizer parse_tokenizer_sentencepiece(std::string_view bytes, const std::string& source) {
  const SentencePieceModel model = parse_sentencepiece_model(bytes, source);
  require_supported(model, source);
  Vocabulary vocabulary;
  vocabulary.reserve(model.pieces.size());
  BpeOptions options;
  options.byte_fallback = model.byte_fallback;
  options.fuse_unknown = true;
  std::vector<AddedToken> added;
  for (std::size_t i = 0; i < model.pieces.size(); ++i) {
    const auto& piece = model.pieces[i];
    const auto id = static_cast<TokenId>(i);
    vocabulary.add(piece.text, id);
    if (piece.type == PieceType::unknown) options.unknown = id;
    if (piece.type != PieceType::normal && piece.type != PieceType::byte) {
      added.push_back(make_added_token(piece, id));
    }
  }
  BpeMerges merges = make_merges(model, vocabulary);
  const SpecialTokens special{.bos = vocabulary.find(model.bos_piece),
                              .eos = vocabulary.find(model.eos_piece),
                              .unknown = options.unknown,
                              .pad = vocabulary.find(model.pad_piece),
                              .mask = std::nullopt};
  PostProcessor post_processor;
  if (special.bos) post_processor.prefix = {*special.bos};
  return Tokenizer(
      {.format = TokenizerFormat::sentencepiece,
       .added_tokens = std::move(added),
       .normalizer = make_normalizer(model),
       .pre_tokenizer = {},
       .model = std::make_unique<BpeModel>(std::move(vocabulary), std::move(merges), options),
       .post_processor = std::move(post_processor),
       .decoder = make_space_marker_decoder(model.add_dummy_prefix),
       .special = special});
}

}  // namespace portolan
