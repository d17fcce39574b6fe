// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

/// What the build was configured with (runtime/version.hpp says what it was made from).
namespace portolan {

/// One line for each library found at configuration, with its version: "fmt 9.1.0".
[[nodiscard]] std::vector<std::string> built_libraries();
/// The devices that this build has backends for, as --device spells them.
[[nodiscard]] std::vector<std::string> built_devices();

}  // namespace portolan
