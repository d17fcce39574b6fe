// SPDX-License-Identifier: Apache-2.0
#include "core/memory_info.hpp"

#include <unistd.h>

#include <algorithm>
#include <sstream>
#include <string>

#include "core/control_groups.hpp"

namespace portolan {
namespace {

namespace fs = std::filesystem;

/// The number after `key` on the line that starts with it.
std::optional<std::int64_t> number_after(const std::string& text, std::string_view key) {
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    if (!line.starts_with(key)) continue;
    std::istringstream rest(line.substr(key.size()));
    std::int64_t value = 0;
    if (rest >> value) return value;
  }
  return std::nullopt;
}

/// A file with one number; nothing for "max" and where there is no file.
std::optional<std::int64_t> number_in(const fs::path& path) {
  return number_after(system_text(path), "");
}

/// What a group leaves of its limit.
std::optional<std::int64_t> left_in(const ControlGroup& group) {
  const auto limit = number_in(group.folder / (group.unified ? "memory.max"  //
                                                             : "memory.limit_in_bytes"));
  const auto used = number_in(group.folder / (group.unified ? "memory.current"  //
                                                            : "memory.usage_in_bytes"));
  if (!limit || !used) return std::nullopt;
  const auto cached = number_after(system_text(group.folder / "memory.stat"),
                                   group.unified ? "inactive_file " : "total_inactive_file ");
  return std::max<std::int64_t>(0, *limit - *used + cached.value_or(0));
}

}  // namespace

std::size_t physical_memory() {
  return static_cast<std::size_t>(sysconf(_SC_PHYS_PAGES)) *
         static_cast<std::size_t>(sysconf(_SC_PAGE_SIZE));
}

std::optional<std::int64_t> available_memory(const fs::path& root, std::string_view cgroup_text) {
  constexpr std::int64_t kKilobyte = 1024;
  std::optional<std::int64_t> available =
      number_after(system_text(root / "proc/meminfo"), "MemAvailable:");
  if (available) *available *= kKilobyte;
  for (const ControlGroup& group : control_groups(root, cgroup_text, "memory")) {
    const auto left = left_in(group);
    if (left && (!available || *left < *available)) available = left;
  }
  return available;
}

std::optional<std::int64_t> available_memory() {
  return available_memory("/", system_text("/proc/self/cgroup"));
}

}  // namespace portolan
