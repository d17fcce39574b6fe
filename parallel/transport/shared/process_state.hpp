// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string_view>

namespace portolan {

/// A process of this machine. The start time tells it from a later one that got the same number.
struct ProcessIdentity {
  std::int64_t process = 0;
  std::uint64_t start_time = 0;  ///< clock ticks since the machine started
};

enum class ProcessState { running, stopped, ended };
/// "running", "stopped", "ended".
[[nodiscard]] std::string_view name_of(ProcessState state);

[[nodiscard]] ProcessIdentity this_process();
/// Zombies have ended, whoever has yet to ask for their status. Without /proc a process counts as
/// running as long as its number is in use.
[[nodiscard]] ProcessState state_of(const ProcessIdentity& identity);

}  // namespace portolan
