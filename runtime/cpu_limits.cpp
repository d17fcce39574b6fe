// SPDX-License-Identifier: Apache-2.0
#include "runtime/cpu_limits.hpp"

#include <unistd.h>

#include <algorithm>
#include <sstream>

#include "core/control_groups.hpp"

namespace portolan {

namespace {

namespace fs = std::filesystem;

/// Version 2: "QUOTA PERIOD" in microseconds, or "max PERIOD".
std::optional<double> quota_of_unified_group(const fs::path& group) {
  std::istringstream text(system_text(group / "cpu.max"));
  double quota = 0;
  double period = 0;
  if (text >> quota >> period && quota > 0 && period > 0) return quota / period;
  return std::nullopt;
}

/// Version 1: one number per file, -1 for no limit.
std::optional<double> quota_of_cpu_controller(const fs::path& group) {
  std::istringstream quota_text(system_text(group / "cpu.cfs_quota_us"));
  std::istringstream period_text(system_text(group / "cpu.cfs_period_us"));
  double quota = 0;
  double period = 0;
  if (quota_text >> quota && period_text >> period && quota > 0 && period > 0) {
    return quota / period;
  }
  return std::nullopt;
}

/// The value of a line "NAME:\tVALUE" of /proc/PID/status.
std::string status_field(const std::string& status, std::string_view name) {
  std::istringstream lines(status);
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with(name) && line.substr(name.size(), 2) == ":\t") {
      return line.substr(name.size() + 2);
    }
  }
  return {};
}

}  // namespace

std::optional<double> cpu_quota(const std::filesystem::path& root, std::string_view cgroup_text) {
  std::optional<double> result;
  for (const ControlGroup& group : control_groups(root, cgroup_text, "cpu")) {
    const auto quota = group.unified ? quota_of_unified_group(group.folder)
                                     : quota_of_cpu_controller(group.folder);
    if (quota && (!result || *quota < *result)) result = quota;
  }
  return result;
}

std::optional<double> cpu_quota() { return cpu_quota("/", system_text("/proc/self/cgroup")); }

bool bound_by_default_of_launcher(const std::vector<std::string>& environment) {
  bool bound = false;
  for (const std::string& entry : environment) {
    if (entry == "OMPI_MCA_orte_bound_at_launch=1") {
      bound = true;
    } else if (entry.starts_with("OMPI_MCA_rmaps_base_oversubscribe=")) {
      continue;
    } else if (entry.starts_with("OMPI_MCA_hwloc_base_") || entry.starts_with("OMPI_MCA_rmaps_") ||
               entry.starts_with("OMPI_MCA_orte_rankfile=")) {
      return false;
    }
  }
  return bound;
}

std::optional<pid_t> launcher_process() {
  // Wrappers such as a shell, time or a profiler may stand between.
  constexpr int kGenerations = 8;
  pid_t process = getppid();
  for (int i = 0; i < kGenerations && process > 1; ++i) {
    const std::string status = system_text("/proc/" + std::to_string(process) + "/status");
    const std::string name = status_field(status, "Name");
    if (name == "mpirun" || name == "mpiexec" || name == "orterun" || name == "orted") {
      return process;
    }
    process = static_cast<pid_t>(std::atoi(status_field(status, "PPid").c_str()));
  }
  return std::nullopt;
}

std::vector<std::string> process_environment() {
  std::vector<std::string> entries;
  for (char** entry = environ; *entry != nullptr; ++entry) entries.emplace_back(*entry);
  return entries;
}

}  // namespace portolan
