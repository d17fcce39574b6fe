// SPDX-License-Identifier: Apache-2.0
#include "apps/collective_run.hpp"

#include <exception>
#include <string>

#include "core/error.hpp"
#include "parallel/gather_values.hpp"

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
  } catch (const std::exception& error) {
    if (!runtime.launched()) throw;
    runtime.abort_job(error);
  }
}

void check_on_first_rank(Communicator& world, const std::function<void()>& check) {
  std::string refusal;
  if (world.rank() == 0) {
    try {
      check();
    } catch (const UsageError& error) {
      refusal = error.what();
    }
  }
  refusal = gather_texts(world, refusal).front();
  if (!refusal.empty()) throw UsageError(refusal);
}

}  // namespace portolan
