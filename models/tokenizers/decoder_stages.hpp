// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <memory>
#include <string>

#include "models/tokenizers/decoder.hpp"
#include "models/tokenizers/pattern.hpp"

/// The steps that decoders are made of.
namespace portolan {

/// A space before each token but the first.
[[nodiscard]] std::unique_ptr<DecoderStage> make_joining_stage();
/// See make_byte_level_decoder. A token that is not written in the alphabet stands for itself.
[[nodiscard]] std::unique_ptr<DecoderStage> make_byte_level_stage();
/// Tokens <0xNN> become the text of their bytes.
[[nodiscard]] std::unique_ptr<DecoderStage> make_byte_fallback_stage();
/// All tokens become one.
[[nodiscard]] std::unique_ptr<DecoderStage> make_fusing_stage();
/// Takes up to `start` and `stop` times `character` from the ends of each token.
[[nodiscard]] std::unique_ptr<DecoderStage> make_stripping_stage(std::string character,
                                                                 std::size_t start,
                                                                 std::size_t stop);
/// Puts `content` in place of each match within a token.
[[nodiscard]] std::unique_ptr<DecoderStage> make_replacing_stage(
    std::shared_ptr<const Pattern> pattern, std::string content);
/// Space markers become spaces, but for those at the start as `leading` says, one of each token;
/// tokens <0xNN> the text of their bytes, and U+FFFD for each byte that is of no character.
[[nodiscard]] std::unique_ptr<DecoderStage> make_sentencepiece_stage(LeadingMarkers leading);
/// Markers become spaces; with `drop_first` those of the first token become nothing.
[[nodiscard]] std::unique_ptr<DecoderStage> make_metaspace_stage(std::string marker,
                                                                 bool drop_first);

/// Tokens that begin with `prefix` continue the one before; a space before each other but the
/// first. With `clean_up` none before punctuation and the English contractions.
[[nodiscard]] std::unique_ptr<DecoderStage> make_word_piece_stage(std::string prefix,
                                                                  bool clean_up);

}  // namespace portolan
