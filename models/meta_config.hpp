// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include "models/config.hpp"

/// params.json, the config of Meta's own releases of LLaMA and of Mistral's of its first models.
namespace portolan {

/// Reads a params.json. vocab_size is 0 where the file leaves it to the tokenizer (-1); dtype and
/// token ids are in other files. The longest sequence, which the file does not say either, is that
/// of the LLaMA that the other fields tell of. Fields of models that are not plain LLaMA (experts,
/// vision, adapters, quantization, other rotary scalings) are refused. Throws InputError "PATH:
/// field 'x': expected ..., found ...".
[[nodiscard]] LlamaConfig read_meta_config(const std::filesystem::path& path);

/// The same from text; `source` starts the messages.
[[nodiscard]] LlamaConfig parse_meta_config(std::string_view text, const std::string& source);

/// The text of a params.json. Models that LLaMA's fields cannot describe (a sliding window, heads
/// that do not share the hidden size) are written with Mistral's, and scaled rotary frequencies
/// other than LLaMA 3.1's with the fields that differ. Throws UnsupportedError for linear scaling
/// and biases, which the format does not have.
[[nodiscard]] std::string meta_config_text(const LlamaConfig& config);

}  // namespace portolan
