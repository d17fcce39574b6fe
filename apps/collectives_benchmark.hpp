// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "apps/benchmark_samples.hpp"
#include "apps/collective_work.hpp"
#include "runtime/runtime.hpp"

/// Collectives as models use them, beside what the memory or the link between the ranks allows.
namespace portolan {

/// What the rate of a call, the whole tensor's bytes over its time, is multiplied by to give the
/// bus bandwidth of nccl-tests (its doc/PERFORMANCE.md): the rate at which bytes cross each rank's
/// link, whatever the number of ranks. all_reduce 2 (p-1)/p; reduce_scatter, all_gather and a
/// ring_shift of p-1 steps (p-1)/p; broadcast 1.
[[nodiscard]] double bus_factor(Collective collective, int ranks);

struct CollectiveRow {
  CollectiveCase setting;
  int ranks = 1;
  /// Empty if it was measured, else why not: "out of memory".
  std::string refusal = {};
  std::vector<double> samples_s = {};   ///< of a call, the slowest rank's
  int calls_per_sample = 0;             ///< that follow each other; a sample is their mean
  std::vector<double> local_s = {};     ///< of LocalWork, all ranks at once
  double link_s = 0.0;                  ///< what the emulated link takes; 0: there is none
  std::int64_t communicated_bytes = 0;  ///< of a call, all ranks together, as they count it
  /// Most that a rank held at a time during a call above the tensors themselves.
  std::int64_t peak_bytes = 0;
  double max_error = 0.0;  ///< against sums in f64

  [[nodiscard]] double median_s() const { return summary_of(samples_s).median; }
  /// Bytes of the whole tensor per second.
  [[nodiscard]] double rate() const;
  [[nodiscard]] double bus_rate() const { return rate() * bus_factor(setting.collective, ranks); }
  /// The longer one of the local work and the emulated link.
  [[nodiscard]] double limit_s() const;
  /// "memory" or "link".
  [[nodiscard]] std::string_view limit() const;
  [[nodiscard]] double limit_share() const { return limit_s() / median_s(); }
};

/// Samples of the collective and of its limit, in turns. Memory that any rank lacks is the row's
/// result. Collective.
[[nodiscard]] CollectiveRow measure_collective(const CollectiveCase& setting,
                                               const SampleLimits& limits, const Runtime& runtime);

}  // namespace portolan
