// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>

#include "models/tokenizers/tokenizer.hpp"

namespace portolan {

/// Bytes of the largest tokenizer file that is read.
inline constexpr std::size_t kLargestTokenizerFile = std::size_t{64} << 20;

/// The tokenizer that the text of a tokenizer.json describes, as Hugging Face's tokenizers library
/// reads it: byte pair encoding, Unigram and WordPiece with what LLaMA, Mistral, StarCoder, GPT-2,
/// RoBERTa, XLM-RoBERTa, T5 and BERT put round them. Padding and truncation are left to those who
/// make batches. Throws InputError "SOURCE: ...".
[[nodiscard]] Tokenizer parse_tokenizer_json(std::string_view text, const std::string& source);

}  // namespace portolan
