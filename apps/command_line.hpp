// SPDX-License-Identifier: Apache-2.0
#pragma once

/// The command line's edge: the only place that turns exceptions into messages and exit codes.
namespace portolan {

/// Runs `portolan ARGUMENTS`. Returns the exit code: 0 done, 1 failed, 2 bad usage or bad input. An
/// error is one line on stderr, "portolan: error: ...".
[[nodiscard]] int run_command_line(int argc, const char* const* argv);

}  // namespace portolan
