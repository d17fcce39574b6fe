// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <vector>

#include "core/json_file.hpp"
#include "models/tokenizers/vocabulary.hpp"

namespace portolan {

/// The special tokens round a text.
struct PostProcessor {
  std::vector<TokenId> prefix;
  std::vector<TokenId> suffix;
};

/// What tokenizer.json says under `post_processor` about single texts. Throws InputError for what
/// it does not know and for ids that are no tokens.
[[nodiscard]] PostProcessor read_post_processor(const JsonObject& object,
                                                const std::function<bool(TokenId)>& is_token);

}  // namespace portolan
