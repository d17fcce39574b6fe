// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>

#include "models/tokenizers/tokenizer.hpp"

namespace portolan {

/// The tokenizer of a SentencePiece model file of type BPE, as LLaMA 2 and Mistral have it, or
/// Unigram, as T5 and XLM-RoBERTa: gives the ids and text that SentencePiece gives. The
/// beginning-of-text token is the one special token that goes round texts. Throws InputError
/// "SOURCE: ..." for what is not sound, and UnsupportedError for other types of model.
[[nodiscard]] Tokenizer parse_tokenizer_sentencepiece(std::string_view bytes,
                                                      const std::string& source);

}  // namespace portolan
