// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/types.h>

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

/// What control groups and launchers leave to this process beyond what its affinity mask says.
namespace portolan {

/// CPU time per wall time that this process's control groups grant all their members together, in
/// CPUs: 2.5 for `docker run --cpus=2.5`. A container so limited still sees every core, and more
/// threads than that are stopped for most of each period. Nothing where there is no limit. Reads
/// versions 1 and 2 of control groups.
[[nodiscard]] std::optional<double> cpu_quota();

/// The same below another root than "/", with the text of a /proc/PID/cgroup file: for tests.
[[nodiscard]] std::optional<double> cpu_quota(const std::filesystem::path& root,
                                              std::string_view cgroup_text);

/// True if the environment is that of a rank which Open MPI 4's mpirun has bound by its own default
/// (one core per rank where there are two ranks), not because the user asked for a binding or a
/// mapping. Entries are "NAME=VALUE".
[[nodiscard]] bool bound_by_default_of_launcher(const std::vector<std::string>& environment);

/// The process of mpirun or its daemon among this process's ancestors: its affinity mask is what
/// the job may use on this node. Nothing if there is none near.
[[nodiscard]] std::optional<pid_t> launcher_process();

/// This process's environment as "NAME=VALUE".
[[nodiscard]] std::vector<std::string> process_environment();

}  // namespace portolan
