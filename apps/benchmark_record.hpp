// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "apps/machine.hpp"
#include "apps/options.hpp"
#include "runtime/runtime.hpp"

/// What the records of benchmarks that run on any number of ranks share.
namespace portolan {

/// Where and how the ranks ran.
[[nodiscard]] nlohmann::ordered_json environment_of(const Machine& machine, const Runtime& runtime,
                                                    const CommonOptions& options);

/// "2 ranks x 1 thread".
[[nodiscard]] std::string team_text(const Runtime& runtime);

/// What a product's weights are held in: "f32", "int8".
[[nodiscard]] std::string_view weights_text(DType dtype, Quantization quantization);

/// Makes `folder`, if there is one. UsageError on every rank if that cannot be. Collective.
void prepare_record(Communicator& world, const std::optional<std::string>& folder);

/// The end of a benchmark: NAME.json and NAME.csv in `folder`, if there is one; and on stdout the
/// document if `json`, else where the files are.
void publish(const std::string& name, const nlohmann::ordered_json& document,
             const std::string& csv, const std::optional<std::string>& folder, bool json);

}  // namespace portolan
