// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>

#include "models/config.hpp"
#include "models/stored_parameter.hpp"
#include "models/weight_files.hpp"

namespace portolan {

/// A parameter of a LLaMA that the files hold as a part of a wider tensor: queries, keys and values
/// in one matrix, or the gate and the up projection. A table of names says which tensors these are
/// and how their rows are ordered. Nothing if there is no such tensor for `parameter`; InputError
/// if there is one of another shape.
[[nodiscard]] std::optional<StoredParameter> find_in_fused(const WeightFiles& files,
                                                           const LlamaConfig& config,
                                                           const std::string& parameter);

}  // namespace portolan
