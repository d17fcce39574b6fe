// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "models/parallel_context.hpp"

namespace portolan {

/// Every way that the tests use so many ranks for one model.
[[nodiscard]] inline std::vector<ParallelLayout> layouts(int ranks) {
  if (ranks == 1) return {ParallelLayout::of(ParallelMode::none, 1)};
  std::vector<ParallelLayout> all;
  for (const ParallelMode mode : {ParallelMode::tp, ParallelMode::sp, ParallelMode::ring}) {
    all.push_back(ParallelLayout::of(mode, ranks));
  }
  if (ranks == 4) {
    all.push_back({{.data = 1, .context = 2, .tensor = 2}, false});
    all.push_back({{.data = 1, .context = 2, .tensor = 2}, true});
  }
  return all;
}

}  // namespace portolan
