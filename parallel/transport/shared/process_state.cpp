// SPDX-License-Identifier: Apache-2.0
#include "parallel/transport/shared/process_state.hpp"

#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>
#include <optional>
#include <sstream>
#include <string>

namespace portolan {
namespace {

struct Status {
  char state = '?';
  std::uint64_t start_time = 0;
};

/// Fields 3 and 22 of /proc/<process>/stat (proc(5)).
std::optional<Status> status_of(std::int64_t process) {
  std::ifstream file(fmt::format("/proc/{}/stat", process));
  std::string line;
  if (!std::getline(file, line)) return std::nullopt;
  // The program's name, field 2, stands in parentheses and may hold anything.
  const std::size_t name_end = line.rfind(')');
  if (name_end == std::string::npos) return std::nullopt;
  std::istringstream fields(line.substr(name_end + 1));
  Status status;
  fields >> status.state;
  std::string skipped;
  for (int field = 4; field < 22; ++field) fields >> skipped;
  fields >> status.start_time;
  if (!fields) return std::nullopt;
  return status;
}

}  // namespace

std::string_view name_of(ProcessState state) {
  switch (state) {
    case ProcessState::running:
      return "running";
    case ProcessState::stopped:
      return "stopped";
    case ProcessState::ended:
      return "ended";
  }
  return "unknown";
}

ProcessIdentity this_process() {
  const std::optional<Status> status = status_of(::getpid());
  return {::getpid(), status ? status->start_time : 0};
}

ProcessState state_of(const ProcessIdentity& identity) {
  if (::kill(static_cast<pid_t>(identity.process), 0) != 0 && errno == ESRCH) {
    return ProcessState::ended;
  }
  const std::optional<Status> status = status_of(identity.process);
  if (!status) return ProcessState::running;
  const bool another = identity.start_time != 0 && status->start_time != identity.start_time;
  if (another || status->state == 'Z' || status->state == 'X') return ProcessState::ended;
  return status->state == 'T' || status->state == 't' ? ProcessState::stopped
                                                      : ProcessState::running;
}

}  // namespace portolan
