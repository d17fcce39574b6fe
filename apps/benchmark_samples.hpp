// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/device.hpp"
#include "core/samples.hpp"
#include "core/timer.hpp"

namespace portolan {

class Communicator;

/// Seconds that `work` takes on an idle device, until the device is idle again.
[[nodiscard]] double seconds_of(Device device, const std::function<void()>& work);

/// The same of the slowest rank, all ranks starting together. Collective.
[[nodiscard]] double slowest_seconds(Communicator& world, Device device,
                                     const std::function<void()>& work);

/// How often one row of a benchmark is measured.
struct SampleLimits {
  int repeat = 7;        ///< samples at most
  double seconds = 1.0;  ///< no sample starts later, except the first
};

/// Counts the samples of a row, and the time since this was made.
class SampleBudget {
 public:
  /// `world`, which outlives this: the ranks that take the samples together.
  explicit SampleBudget(const SampleLimits& limits, Communicator* world = nullptr)
      : limits_(limits), world_(world) {}

  /// Whether another sample is to be taken, which is counted then: the same on all ranks of the
  /// world. Collective.
  [[nodiscard]] bool next();

 private:
  SampleLimits limits_;
  Communicator* world_;
  Stopwatch since_start_;
  int taken_ = 0;
};

/// Samples in seconds as records have them: {"min", "median", "p80", "samples"}.
[[nodiscard]] nlohmann::ordered_json times_json(const std::vector<double>& samples);

/// The same as fields of a CSV line: how many, and their summary.
inline constexpr const char* kTimesCsvHeader = "samples,min_s,median_s,p80_s";
[[nodiscard]] std::string times_csv(const std::vector<double>& samples);

}  // namespace portolan
