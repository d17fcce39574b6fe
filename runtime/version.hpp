// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string_view>

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
};

BuildInformation build_information() noexcept;

}  // namespace portolan
