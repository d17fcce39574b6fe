// SPDX-License-Identifier: Apache-2.0
#include "apps/collective_run.hpp"

#include <exception>

#include "core/error.hpp"
#include "core/error_line.hpp"

namespace portolan {

RuntimeOptions runtime_options(const CommonOptions& options) {
  check_run_options(options);
  return {.device = options.device,
          .threads = options.threads.value_or(0),
          .link = options.link,
          .attention_tiles = options.attention_tiles};
}

void run_collectively(const RuntimeOptions& options, const std::function<void(Runtime&)>& work) {
  Runtime runtime(options);
  try {
    work(runtime);
  } catch (const Error& error) {
    if (!runtime.launched()) throw;
    print_error(error.what());
    runtime.abort_job(error.exit_code());
  } catch (const std::exception& error) {
    if (!runtime.launched()) throw;
    print_error(error.what());
    runtime.abort_job(1);
  }
}

}  // namespace portolan
