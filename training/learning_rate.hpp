// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string_view>

namespace portolan {

/// After warm-up: constant; or falling linearly or along half a cosine (Loshchilov and Hutter 2016,
/// arXiv:1608.03983), to be 0 in step total_steps, the first that is not taken.
enum class LearningRateDecay { constant, linear, cosine };
/// Throws UsageError that lists the names.
[[nodiscard]] LearningRateDecay learning_rate_decay_from_name(std::string_view name);

struct LearningRateSchedule {
  double peak = 1e-3;
  LearningRateDecay decay = LearningRateDecay::constant;
  std::int64_t warmup_steps = 0;  ///< linear from peak / warmup_steps in step 0
  std::int64_t total_steps = 1;

  /// Of step 0, 1, ...
  [[nodiscard]] double at(std::int64_t step) const;
};

}  // namespace portolan
