// SPDX-License-Identifier: Apache-2.0
#include "core/token_choice.hpp"

#include <cmath>

#include "core/error.hpp"

namespace portolan {

void TokenChoice::check() const {
  require(std::isfinite(temperature) && temperature >= 0.0,
          "the temperature must be 0 or more, found {}", temperature);
  require(top_k >= 0, "top-k must be 0 or more, found {}", top_k);
  require(top_p > 0.0 && top_p <= 1.0, "top-p must be above 0 and at most 1, found {}", top_p);
  require(min_p >= 0.0 && min_p <= 1.0, "min-p must lie between 0 and 1, found {}", min_p);
  require(std::isfinite(repetition_penalty) && repetition_penalty > 0.0,
          "the repetition penalty must be above 0, found {}", repetition_penalty);
}

}  // namespace portolan
