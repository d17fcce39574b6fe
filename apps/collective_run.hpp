// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>

#include "apps/options.hpp"
#include "runtime/runtime.hpp"

namespace portolan {

/// What the command line says of the runtime. Throws UsageError as check_run_options does.
[[nodiscard]] RuntimeOptions runtime_options(const CommonOptions& options);

/// Starts the runtime and runs `work` on this rank. When it throws on a rank of several, the error
/// is printed here and all ranks end with its exit code: an exception that left the runtime's
/// lifetime would leave the others waiting. Alone, the exception goes on to the caller.
void run_collectively(const RuntimeOptions& options, const std::function<void(Runtime&)>& work);

/// Runs `check` on the first rank, whose files it is about. The UsageError that it throws there is
/// thrown on every rank. Collective.
void check_on_first_rank(Communicator& world, const std::function<void()>& check);

}  // namespace portolan
