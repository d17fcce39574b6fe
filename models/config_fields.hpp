// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string_view>

#include "core/json_file.hpp"
#include "models/config.hpp"

/// Fields of config.json that architectures share. Readers throw InputError naming the field.
namespace portolan {

[[nodiscard]] bool boolean_or(const JsonObject& config, std::string_view name, bool absent);
[[nodiscard]] std::int64_t integer_or(const JsonObject& config, std::string_view name,
                                      std::int64_t minimum, std::int64_t maximum,
                                      std::int64_t absent);
[[nodiscard]] double positive_or(const JsonObject& config, std::string_view name, double absent);
/// A switch that changes the computation in a way the engine does not offer.
void require_off(const JsonObject& config, std::string_view name);

/// The kind of GELU that a field names; `absent` where it is not there.
[[nodiscard]] GeluKind read_gelu(const JsonObject& config, std::string_view field, GeluKind absent);
/// What read_gelu reads as that kind.
[[nodiscard]] std::string_view gelu_name(GeluKind kind);

/// hidden_size, intermediate_size, num_hidden_layers, num_attention_heads, vocab_size.
void read_sizes(const JsonObject& config, CommonConfig& common);
/// Width of a head where the file does not give it: hidden_size over heads, by these names.
[[nodiscard]] std::int64_t divide_heads(const JsonObject& config, std::string_view heads_field,
                                        std::string_view hidden_field, const CommonConfig& common);
/// eos_token_id, one or several, in place of what `common` has; nothing if it is not there.
void read_end_tokens(const JsonObject& config, CommonConfig& common);
/// bos_token_id, eos_token_id. After vocab_size.
void read_token_ids(const JsonObject& config, CommonConfig& common);
/// torch_dtype or dtype, quantization_config, and the token ids. After vocab_size.
void read_dtype_and_tokens(const JsonObject& config, CommonConfig& common);
void write_dtype_and_tokens(const CommonConfig& common, nlohmann::ordered_json& out);

}  // namespace portolan
