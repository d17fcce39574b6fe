// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json.hpp>

#include "core/json_file.hpp"
#include "models/config.hpp"

namespace portolan {

/// Reads rope_theta and the scaling of the rotary embedding into `result`, from rope_theta and
/// rope_scaling or, as transformers 5 writes them, from rope_parameters. Throws InputError for
/// kinds other than models/rope_scaling.hpp has and for fields that contradict each other. After
/// max_position_embeddings.
void read_rope(const JsonObject& config, LlamaConfig& result);

/// What rope_scaling holds, rope_type first, for read_rope to read; empty for NoRopeScaling.
[[nodiscard]] nlohmann::ordered_json rope_scaling_fields(const RopeScaling& scaling);

}  // namespace portolan
