// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <vector>

#include "core/device.hpp"

namespace portolan {

class Communicator;

/// What benchmarks tell of repeated measurements, in the unit of the samples.
struct SampleSummary {
  double minimum = 0.0;
  double median = 0.0;
  double percentile80 = 0.0;  ///< the smallest sample that 80 % of all do not exceed
};

/// All 0 without samples.
[[nodiscard]] SampleSummary summary_of(std::vector<double> samples);

/// Seconds that `work` takes on an idle device, until the device is idle again.
[[nodiscard]] double seconds_of(Device device, const std::function<void()>& work);

/// The same of the slowest rank, all ranks starting together. Collective.
[[nodiscard]] double slowest_seconds(Communicator& world, Device device,
                                     const std::function<void()>& work);

}  // namespace portolan
