// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>

#include "core/json_file.hpp"
#include "models/tokenizers/vocabulary.hpp"

/// Members of tokenizer.json that several of its parts have. All throw InputError.
namespace portolan {

/// When a space marker goes before text.
enum class PrependScheme { always, first, never };

/// `prepend_scheme`, or what `add_prefix_space` says in older files.
[[nodiscard]] PrependScheme read_prepend_scheme(const JsonObject& object);

/// A member that is one character, as UTF-8.
[[nodiscard]] std::string read_character(const JsonObject& object, std::string_view name);

/// What Hugging Face's library reads where a file has `value` in as few digits as tell it apart, as
/// that library and Python write numbers: the digits as a whole number and one division, whose last
/// bit may be another one.
[[nodiscard]] double as_huggingface_reads(double value);

/// A member that is an id.
[[nodiscard]] TokenId read_token_id(const JsonObject& object, std::string_view name);

}  // namespace portolan
