// SPDX-License-Identifier: Apache-2.0
#include "models/tokenizers/tokenizer_sentencepiece.hpp"

#include <algorithm>
#include <functional>
#include <limits>
#include <memory>
#include <utility>

#include "core/error.hpp"
#include "core/printable.hpp"
#include "models/tokenizers/bpe_model.hpp"
#include "models/tokenizers/sentencepiece_model.hpp"
#include "models/tokenizers/sentencepiece_normalizer.hpp"
#include "models/tokenizers/unigram_model.hpp"

namespace portolan {
namespace {

using PieceType = SentencePieceModel::PieceType;

using ModelType = SentencePieceModel::ModelType;

void require_supported(const SentencePieceModel& model, const std::string& source) {
  const auto refuse = [&](std::string_view what) {
    throw UnsupportedError(
        fmt::format("{}: SentencePiece model {} is not supported", source, what));
  };
  const bool is_bpe = model.type == ModelType::bpe;
  if (!is_bpe && model.type != ModelType::unigram) refuse("of another type than BPE and Unigram");
  if (model.space_after_word) refuse("with spaces behind words");
  if (model.changes_decoded_text) refuse("with a table for decoded text");
  if (is_bpe && std::ranges::any_of(model.pieces, [](const auto& piece) {
        return piece.type == PieceType::unused;
      })) {
    refuse("of type BPE with unused pieces");
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

std::unique_ptr<const WordEncoder> make_bpe(const SentencePieceModel& model, Vocabulary vocabulary,
                                            TokenId unknown) {
  BpeOptions options;
  options.byte_fallback = model.byte_fallback;
  options.unknown = unknown;
  options.fuse_unknown = true;
  BpeMerges merges = make_merges(model, vocabulary);
  return std::make_unique<BpeModel>(std::move(vocabulary), std::move(merges), options);
}

std::unique_ptr<const WordEncoder> make_unigram(const SentencePieceModel& model,
                                                Vocabulary vocabulary, TokenId unknown) {
  // Where SentencePiece starts from, whatever sense it makes for a model without normal pieces.
  float lowest = std::numeric_limits<float>::max();
  std::vector<std::optional<double>> scores;
  for (const auto& piece : model.pieces) {
    std::optional<double>& score = scores.emplace_back();
    if (piece.type == PieceType::normal) {
      score = piece.score;
      lowest = std::min(lowest, piece.score);
    } else if (piece.type == PieceType::user_defined) {
      // Above what logarithms of probabilities come to, so that it wins over its parts.
      score = static_cast<float>(0.1 * static_cast<double>(piece.text.size() - 1));
    }
  }
  UnigramOptions options;
  options.rules = UnigramRules::sentencepiece;
  options.unknown = unknown;
  options.unknown_score = lowest - kUnknownPenalty;
  options.byte_fallback = model.byte_fallback;
  return std::make_unique<UnigramModel>(std::move(vocabulary), std::move(scores), options);
}

/// Only pieces that users defined are looked for in text, after it has been normalized, and those
/// of a Unigram model by the model itself.
AddedToken make_added_token(const SentencePieceModel& model, TokenId id) {
  const auto& piece = model.pieces[static_cast<std::size_t>(id)];
  AddedToken token;
  token.content = piece.text;
  token.id = id;
  token.special = piece.type != PieceType::user_defined;
  token.normalized = true;
  if (!token.special && model.type == ModelType::bpe) token.pattern = piece.text;
  if (piece.type == PieceType::unknown) token.decoded = model.unknown_surface;
  return token;
}

Normalizer make_normalizer(const SentencePieceModel& model, const std::string& source) {
  SentencePieceRules rules;
  if (!model.character_map.empty()) {
    try {
      rules.characters.emplace(model.character_map);
    } catch (const UsageError& error) {
      throw InputError(
          fmt::format("{}: field 'normalizer_spec.precompiled_charsmap': not a sound "
                      "table: {}",
                      source, error.what()));
    }
  }
  std::vector<PieceTrie::Piece> untouched;
  for (std::size_t i = 0; i < model.pieces.size(); ++i) {
    if (model.pieces[i].type != PieceType::user_defined) continue;
    untouched.push_back({model.pieces[i].text, static_cast<TokenId>(i)});
  }
  rules.untouched = PieceTrie(std::move(untouched));
  rules.add_prefix = model.add_dummy_prefix;
  rules.remove_extra_spaces = model.remove_extra_whitespaces;
  rules.mark_spaces = model.escape_whitespaces;
  std::vector<std::unique_ptr<const NormalizerStep>> steps;
  steps.push_back(make_sentencepiece_normalizer(std::move(rules)));
  return Normalizer(std::move(steps));
}

LeadingMarkers leading_markers(const SentencePieceModel& model) {
  if (model.remove_extra_whitespaces) return LeadingMarkers::drop_all;
  return model.add_dummy_prefix ? LeadingMarkers::drop_first : LeadingMarkers::keep;
}

}  // namespace

Tokenizer parse_tokenizer_sentencepiece(std::string_view bytes, const std::string& source) {
  const SentencePieceModel model = parse_sentencepiece_model(bytes, source);
  require_supported(model, source);
  Vocabulary vocabulary;
  vocabulary.reserve(model.pieces.size());
  TokenId unknown = 0;
  std::vector<AddedToken> added;
  for (std::size_t i = 0; i < model.pieces.size(); ++i) {
    const auto& piece = model.pieces[i];
    const auto id = static_cast<TokenId>(i);
    vocabulary.add(piece.text, id);
    if (piece.type == PieceType::unknown) unknown = id;
    if (piece.type == PieceType::unknown || piece.type == PieceType::control ||
        piece.type == PieceType::user_defined) {
      added.push_back(make_added_token(model, id));
    }
  }
  const SpecialTokens special{.bos = vocabulary.find(model.bos_piece),
                              .eos = vocabulary.find(model.eos_piece),
                              .unknown = unknown,
                              .pad = vocabulary.find(model.pad_piece),
                              .mask = std::nullopt};
  PostProcessor post_processor;
  if (special.bos) post_processor.prefix = {*special.bos};
  const auto make_model = model.type == ModelType::bpe ? make_bpe : make_unigram;
  return Tokenizer({.format = TokenizerFormat::sentencepiece,
                    .added_tokens = std::move(added),
                    .normalizer = make_normalizer(model, source),
                    .pre_tokenizer = {},
                    .model = make_model(model, std::move(vocabulary), unknown),
                    .post_processor = std::move(post_processor),
                    .decoder = make_sentencepiece_decoder(leading_markers(model)),
                    .special = special});
}

}  // namespace portolan
