// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string_view>

namespace portolan {

/// Bytes of memory that the machine has.
[[nodiscard]] std::size_t physical_memory();

/// Bytes that processes here can still take without swapping, by the system's estimate and by what
/// the control groups of this process leave of their limits: cached files count as free, as the
/// system drops them on demand. Nothing where the system does not say.
[[nodiscard]] std::optional<std::int64_t> available_memory();

/// The same below another root than "/", with the text of a /proc/PID/cgroup file: for tests.
[[nodiscard]] std::optional<std::int64_t> available_memory(const std::filesystem::path& root,
                                                           std::string_view cgroup_text);

}  // namespace portolan
