// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

/// Running other programs so that nothing of them outlives this process.
namespace portolan {

struct ProcessRequest {
  std::vector<std::string> arguments;              ///< [0] is the absolute path of the program
  std::map<std::string, std::string> environment;  ///< added to this process' own
  std::string input;                               ///< all of stdin
  /// Called with each line, without its end, as it comes. What they throw ends the program first.
  std::function<void(std::string_view)> on_output;
  std::function<void(std::string_view)> on_error;
  /// Called now and then while nothing comes, e.g. to keep a clock on a progress line.
  std::function<void()> on_idle;
  /// Longest time without a line on stdout or stderr, seconds; 0 waits for ever.
  double silence_limit_s = 0.0;
};

struct ProcessResult {
  int exit_code = -1;      ///< -1 when a signal ended it
  int signal = 0;          ///< the signal that ended it, or 0
  bool timed_out = false;  ///< ended by us after silence_limit_s
  int interrupted_by = 0;  ///< SIGINT, SIGTERM or SIGHUP that this process received meanwhile, or 0

  [[nodiscard]] bool succeeded() const {
    return exit_code == 0 && !timed_out && interrupted_by == 0;
  }
  /// "exit code 3", "ended by signal 11 (Segmentation fault)", "no sign of life for 60 s", ...
  [[nodiscard]] std::string describe() const;
  double silence_limit_s = 0.0;
};

/// Runs a program to its end. While it runs, SIGINT, SIGTERM and SIGHUP do not end this process but
/// the program: SIGTERM, then SIGKILL after a few seconds. When this returns or throws, no
/// descendant of the program is left, however it ended and whatever process groups it made. Should
/// this process be killed outright, the program gets SIGTERM from the kernel. Throws Error when it
/// cannot start. For processes of one thread: a signal that another one takes would end the
/// process.
[[nodiscard]] ProcessResult run_process(const ProcessRequest& request);

}  // namespace portolan
