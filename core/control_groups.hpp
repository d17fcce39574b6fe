// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace portolan {

/// A control group that a process lies in, as a folder of the system's files.
struct ControlGroup {
  std::filesystem::path folder;
  /// Version 2, where one hierarchy has all controllers; else version 1.
  bool unified = true;
};

/// The groups that may limit this process by `controller` ("cpu", "memory"): its own and all that
/// they lie in. Those that are not visible here (a container sees its own as the root) have no
/// files. `root` is "/" but in tests; `cgroup_text` is that of /proc/self/cgroup.
[[nodiscard]] std::vector<ControlGroup> control_groups(const std::filesystem::path& root,
                                                       std::string_view cgroup_text,
                                                       std::string_view controller);

/// The text of a small file of the system; empty if there is none.
[[nodiscard]] std::string system_text(const std::filesystem::path& path);

}  // namespace portolan
