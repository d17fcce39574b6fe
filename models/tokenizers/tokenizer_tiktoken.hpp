// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>

#include "models/tokenizers/tokenizer.hpp"

namespace portolan {

/// Whether `bytes` starts like a tiktoken file: base64 text, a space and a number.
[[nodiscard]] bool looks_like_tiktoken(std::string_view bytes);

/// The tokenizer of LLaMA 3's tokenizer.model: on each line a token's bytes in base64 and its rank,
/// which is its id; then the 256 special tokens of LLaMA 3.1. Text is split by LLaMA 3's pattern, a
/// word that is a token is that token, and else the neighbours that spell the token of lowest rank
/// are joined first. Throws InputError "SOURCE: ...".
[[nodiscard]] Tokenizer parse_tokenizer_tiktoken(std::string_view bytes, const std::string& source);

}  // namespace portolan
