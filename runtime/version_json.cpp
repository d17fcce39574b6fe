// SPDX-License-Identifier: Apache-2.0
#include <nlohmann/json.hpp>

#include "runtime/version.hpp"

namespace portolan {

nlohmann::ordered_json to_json(const BuildInformation& build) {
  return {{"version", build.version},
          {"git_commit", build.git_commit},
          {"compiler", build.compiler},
          {"build_type", build.build_type}};
}

}  // namespace portolan
