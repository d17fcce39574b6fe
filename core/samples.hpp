// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

namespace portolan {

/// What benchmarks tell of repeated measurements, in the unit of the samples.
struct SampleSummary {
  double minimum = 0.0;
  double median = 0.0;        ///< of an even number the mean of the two in the middle
  double percentile80 = 0.0;  ///< the smallest sample that 80 % of all do not exceed
  double maximum = 0.0;
};

/// All 0 without samples.
[[nodiscard]] SampleSummary summary_of(std::vector<double> samples);

}  // namespace portolan
