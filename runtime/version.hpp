// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string_view>
#include <vector>

namespace portolan {

/// What this build of Portolan was made from, and how.
struct BuildInformation {
  /// "MAJOR.MINOR.PATCH".
  std::string_view version;
  /// The commit, as 40 hexadecimal digits, followed by "-dirty" if a tracked file differed from it;
  /// "unknown" outside a git checkout.
  std::string_view git_commit;
  /// Name and version of the C++ compiler, as "GNU 12.2.0".
  std::string_view compiler;
  /// CMake's build type, as "Release".
  std::string_view build_type;
  /// The devices that it has backends for, as --device spells them.
  std::vector<std::string_view> devices;
  /// The libraries found at configuration, each with its version: "fmt 9.1.0".
  std::vector<std::string_view> libraries;
};

[[nodiscard]] BuildInformation build_information();

/// Version, commit, compiler and build type, as every JSON document of Portolan states them.
[[nodiscard]] nlohmann::ordered_json to_json(const BuildInformation& build);

}  // namespace portolan
