// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "core/dtype.hpp"
#include "core/samples.hpp"
#include "runtime/runtime.hpp"

namespace portolan {

/// A rate per second, and how often it was taken.
struct Peak {
  SampleSummary rate;
  int samples = 0;
};

/// What a device reaches at most, of all ranks together.
struct MachinePeaks {
  std::vector<std::pair<DType, Peak>> products;  ///< FLOP of a large matrix product, by dtype
  Peak read;  ///< bytes of one pass over memory far larger than any cache
};

/// All ranks at once, on the device of the runtime. Collective.
[[nodiscard]] MachinePeaks measure_peaks(const Runtime& runtime);

[[nodiscard]] nlohmann::ordered_json to_json(const MachinePeaks& peaks);
/// Lines for people.
[[nodiscard]] std::string to_text(const MachinePeaks& peaks);

}  // namespace portolan
