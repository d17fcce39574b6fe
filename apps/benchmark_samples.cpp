// SPDX-License-Identifier: Apache-2.0
#include "apps/benchmark_samples.hpp"

#include <algorithm>
#include <cmath>

#include "core/backend.hpp"
#include "core/timer.hpp"
#include "parallel/communicator.hpp"
#include "parallel/gather_values.hpp"

namespace portolan {

SampleSummary summary_of(std::vector<double> samples) {
  if (samples.empty()) return {};
  std::ranges::sort(samples);
  const std::size_t count = samples.size();
  const double median = 0.5 * (samples[(count - 1) / 2] + samples[count / 2]);
  const auto rank = static_cast<std::size_t>(std::ceil(0.8 * static_cast<double>(count)));
  return {samples.front(), median, samples[rank - 1]};
}

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

}  // namespace portolan
