// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

#include "core/host_info.hpp"

namespace portolan {

/// The machine this process runs on, as records describe it.
struct Machine {
  HostInfo host;
  std::string distribution;  ///< "Debian GNU/Linux 12 (bookworm)"
  int packages = 0;          ///< CPU sockets that this process may use
  int numa_domains = 0;
  int cores = 0;  ///< physical, of the whole machine
  int threads_per_core = 1;
  /// Physical cores that this process may use: its affinity mask, and its control group's CPU
  /// quota.
  int usable_cores = 1;
  std::uint64_t memory_bytes = 0;
  std::string caches;         ///< "L1d 48 kB, L2 1.0 MB, L3 33.6 MB"
  double load_average = 0.0;  ///< runnable processes, mean of the last minute
};

/// Throws Error if the machine cannot be examined.
[[nodiscard]] Machine describe_machine();
[[nodiscard]] nlohmann::ordered_json to_json(const Machine& machine);

/// Whether other work on a machine disturbs what is timed there.
[[nodiscard]] constexpr bool is_busy(double load_average, double usable_cores) {
  return load_average > 0.5 * usable_cores;
}

}  // namespace portolan
