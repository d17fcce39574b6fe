// SPDX-License-Identifier: Apache-2.0
#include "apps/benchmark_samples.hpp"

#include "core/backend.hpp"
#include "core/timer.hpp"
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

}  // namespace portolan
