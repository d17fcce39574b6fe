// SPDX-License-Identifier: Apache-2.0
#include "apps/benchmark_samples.hpp"

#include <fmt/format.h>

#include "core/backend.hpp"
#include "parallel/communicator.hpp"
#include "parallel/gather_values.hpp"

namespace portolan {

double seconds_of(Device device, const std::function<void()>& work) {
  Backend& backend = backend_of(device);
  backend.synchronize();
  const Stopwatch stopwatch;
  work();
  backend.synchronize();
  return stopwatch.seconds();
}

double slowest_seconds(Communicator& world, Device device, const std::function<void()>& work) {
  backend_of(device).synchronize();
  world.barrier();
  return largest_value(world, seconds_of(device, work));
}

bool SampleBudget::next() {
  if (taken_ > 0) {
    if (taken_ >= limits_.repeat) return false;
    const double spent = since_start_.seconds();
    if ((world_ == nullptr ? spent : largest_value(*world_, spent)) > limits_.seconds) return false;
  }
  ++taken_;
  return true;
}

nlohmann::ordered_json times_json(const std::vector<double>& samples) {
  const SampleSummary seconds = summary_of(samples);
  return {{"min", seconds.minimum},
          {"median", seconds.median},
          {"p80", seconds.percentile80},
          {"samples", samples}};
}

std::string times_csv(const std::vector<double>& samples) {
  const SampleSummary seconds = summary_of(samples);
  return fmt::format("{},{},{},{}", samples.size(), seconds.minimum, seconds.median,
                     seconds.percentile80);
}

}  // namespace portolan
