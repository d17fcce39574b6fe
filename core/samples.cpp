// SPDX-License-Identifier: Apache-2.0
#include "core/samples.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>

namespace portolan {

SampleSummary summary_of(std::vector<double> samples) {
  if (samples.empty()) return {};
  std::ranges::sort(samples);
  const std::size_t count = samples.size();
  const double median = 0.5 * (samples[(count - 1) / 2] + samples[count / 2]);
  const auto rank = static_cast<std::size_t>(std::ceil(0.8 * static_cast<double>(count)));
  return {samples.front(), median, samples[rank - 1], samples.back()};
}

}  // namespace portolan
