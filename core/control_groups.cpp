// SPDX-License-Identifier: Apache-2.0
#include "core/control_groups.hpp"

#include <fmt/format.h>

#include <fstream>
#include <iterator>
#include <sstream>

namespace portolan {

namespace fs = std::filesystem;

std::vector<ControlGroup> control_groups(const fs::path& root, std::string_view cgroup_text,
                                         std::string_view controller) {
  const fs::path mounts = root / "sys/fs/cgroup";
  const std::string wanted = fmt::format(",{},", controller);
  std::vector<ControlGroup> groups;
  std::istringstream lines{std::string(cgroup_text)};
  for (std::string line; std::getline(lines, line);) {
    // HIERARCHY:CONTROLLER,CONTROLLER...:PATH
    const std::size_t first = line.find(':');
    const std::size_t second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const bool unified = controllers.empty();
    if (!unified && fmt::format(",{},", controllers).find(wanted) == std::string::npos) continue;
    const fs::path mount = unified ? mounts : mounts / controllers;
    for (fs::path group = line.substr(second + 1);; group = group.parent_path()) {
      groups.push_back({mount / group.relative_path(), unified});
      if (!group.has_relative_path()) break;
    }
  }
  return groups;
}

std::string system_text(const fs::path& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

}  // namespace portolan
