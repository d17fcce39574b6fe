// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace portolan {

/// What a SentencePiece model file says (sentencepiece_model.proto), as far as encoding needs it.
struct SentencePieceModel {
  enum class PieceType { normal = 1, unknown, control, user_defined, unused, byte };
  struct Piece {
    std::string text;
    float score = 0.0F;
    PieceType type = PieceType::normal;
  };
  enum class ModelType { unigram = 1, bpe, word, character };

  /// In the order of their ids.
  std::vector<Piece> pieces;
  ModelType type = ModelType::unigram;
  bool byte_fallback = false;
  bool space_after_word = false;  ///< treat_whitespace_as_suffix
  std::string bos_piece = "<s>";
  std::string eos_piece = "</s>";
  std::string pad_piece = "<pad>";
  std::string unknown_surface = " \xE2\x81\x87 ";  ///< what the unknown piece is decoded to
  bool add_dummy_prefix = true;
  bool remove_extra_whitespaces = true;
  bool escape_whitespaces = true;
  /// The table that normalizes characters (character_map.hpp), unchecked; empty if there is none.
  std::string character_map;
  bool changes_decoded_text = false;  ///< denormalizer_spec has a table
};

/// Reads the file's bytes (a protocol buffer). Pieces are UTF-8, neither empty nor repeated, and
/// one is the unknown one. Takes memory in proportion to `bytes` only. Throws InputError "SOURCE:
/// ...".
[[nodiscard]] SentencePieceModel parse_sentencepiece_model(std::string_view bytes,
                                                           const std::string& source);

}  // namespace portolan
