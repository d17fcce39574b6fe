// SPDX-License-Identifier: Apache-2.0
#include "training/learning_rate.hpp"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "core/error.hpp"

namespace portolan {

LearningRateDecay learning_rate_decay_from_name(std::string_view name) {
  if (name == "constant") return LearningRateDecay::constant;
  if (name == "linear") return LearningRateDecay::linear;
  if (name == "cosine") return LearningRateDecay::cosine;
  throw UsageError(fmt::format("--schedule: '{}' is not one of constant, linear, cosine", name));
}

double LearningRateSchedule::at(std::int64_t step) const {
  if (step < warmup_steps) {
    return peak * static_cast<double>(step + 1) / static_cast<double>(warmup_steps);
  }
  const auto rest = static_cast<double>(std::max<std::int64_t>(1, total_steps - warmup_steps));
  const double progress = std::min(1.0, static_cast<double>(step - warmup_steps) / rest);
  switch (decay) {
    case LearningRateDecay::constant:
      return peak;
    case LearningRateDecay::linear:
      return peak * (1.0 - progress);
    case LearningRateDecay::cosine:
      return peak * 0.5 * (1.0 + std::cos(std::numbers::pi * progress));
  }
  return peak;
}

}  // namespace portolan
