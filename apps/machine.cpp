// SPDX-License-Identifier: Apache-2.0
#include "apps/machine.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <fstream>
#include <string_view>
#include <utility>

#include "runtime/cpu_limits.hpp"
#include "runtime/topology.hpp"

namespace portolan {
namespace {

/// PRETTY_NAME of os-release(5); empty without it.
std::string distribution() {
  constexpr std::string_view kName = "PRETTY_NAME=";
  std::ifstream file("/etc/os-release");
  for (std::string line; std::getline(file, line);) {
    if (!line.starts_with(kName)) continue;
    std::string value = line.substr(kName.size());
    std::erase(value, '"');
    return value;
  }
  return {};
}

std::string byte_text(long bytes) {
  return bytes >= 1000000 ? fmt::format("{:.1f} MB", static_cast<double>(bytes) / 1e6)
                          : fmt::format("{:.0f} kB", static_cast<double>(bytes) / 1e3);
}

std::string cache_text() {
  constexpr std::array<std::pair<int, const char*>, 3> kLevels{{{_SC_LEVEL1_DCACHE_SIZE, "L1d"},
                                                                {_SC_LEVEL2_CACHE_SIZE, "L2"},
                                                                {_SC_LEVEL3_CACHE_SIZE, "L3"}}};
  std::string text;
  for (const auto& [level, name] : kLevels) {
    const long bytes = ::sysconf(level);
    if (bytes <= 0) continue;
    text += fmt::format("{}{} {}", text.empty() ? "" : ", ", name, byte_text(bytes));
  }
  return text;
}

}  // namespace

Machine describe_machine() {
  const Topology topology = Topology::detect();
  Machine machine;
  machine.host = host_info();
  machine.distribution = distribution();
  machine.packages = topology.packages();
  machine.numa_domains = static_cast<int>(topology.numa_domains().size());
  machine.cores = topology.machine_cores();
  machine.threads_per_core = topology.threads_per_core();
  machine.usable_cores = std::max(1, static_cast<int>(topology.cores().size()));
  if (const auto quota = cpu_quota()) {
    machine.usable_cores = std::clamp(static_cast<int>(*quota), 1, machine.usable_cores);
  }
  machine.memory_bytes = static_cast<std::uint64_t>(topology.memory_bytes());
  machine.caches = cache_text();
  if (double load = 0.0; ::getloadavg(&load, 1) == 1) machine.load_average = load;
  return machine;
}

nlohmann::ordered_json to_json(const Machine& machine) {
  return {{"host", machine.host.host_name},
          {"cpu_model", machine.host.cpu_model},
          {"cpu_features", machine.host.cpu_features},
          {"architecture", machine.host.architecture},
          {"kernel", machine.host.operating_system},
          {"distribution", machine.distribution},
          {"packages", machine.packages},
          {"numa_domains", machine.numa_domains},
          {"cores", machine.cores},
          {"threads_per_core", machine.threads_per_core},
          {"usable_cores", machine.usable_cores},
          {"memory_bytes", machine.memory_bytes},
          {"caches", machine.caches},
          {"load_average", machine.load_average}};
}

}  // namespace portolan
