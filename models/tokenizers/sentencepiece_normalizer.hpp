// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <optional>

#include "models/tokenizers/character_map.hpp"
#include "models/tokenizers/normalizer.hpp"
#include "models/tokenizers/piece_trie.hpp"

namespace portolan {

/// What a SentencePiece model says about normalization.
struct SentencePieceRules {
  std::optional<CharacterMap> characters;
  /// The longest of these that text starts with stays as it is.
  PieceTrie untouched;
  /// A space goes before text that is not empty.
  bool add_prefix = true;
  /// Spaces go from both ends, and all but the first between what was replaced by itself.
  bool remove_extra_spaces = true;
  /// Spaces become space markers.
  bool mark_spaces = true;
};

[[nodiscard]] std::unique_ptr<const NormalizerStep> make_sentencepiece_normalizer(
    SentencePieceRules rules);

}  // namespace portolan
