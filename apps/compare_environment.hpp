// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "apps/compare_settings.hpp"
#include "apps/machine.hpp"

namespace portolan {

/// What the results depend on, for compare.json: the experiment, the machine, versions, the command
/// line and the variables of the environment that matter. The jobs' own part comes from the
/// workers.
[[nodiscard]] nlohmann::ordered_json describe_environment(
    const CompareSettings& settings, const Machine& machine, const std::string& launcher_version,
    const std::vector<std::string>& command, std::chrono::system_clock::time_point date);

/// Variables that change how OpenMP, MPI, Kokkos, oneDNN, Slurm or Portolan behave.
[[nodiscard]] bool is_relevant_variable(std::string_view name);

/// The words as a shell would need them.
[[nodiscard]] std::string shell_text(const std::vector<std::string>& words);

}  // namespace portolan
