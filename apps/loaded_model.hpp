// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>

#include "apps/options.hpp"
#include "models/checkpoint.hpp"
#include "models/registry.hpp"
#include "runtime/runtime.hpp"

namespace portolan {

/// A checkpoint's model on this job's ranks, with what it stands on.
struct LoadedModel {
  std::unique_ptr<ParallelContext> context;
  std::unique_ptr<Model> model;
  double seconds = 0.0;  ///< that loading took
};

/// Loads this rank's shards for `batch` sequences of up to `longest` tokens, in the dtype and
/// layout that the options ask for. Throws OutOfMemoryError before loading what cannot fit.
/// Collective.
[[nodiscard]] LoadedModel load_model(const Checkpoint& checkpoint, const CommonOptions& options,
                                     std::int64_t longest, const Runtime& runtime,
                                     std::int64_t batch = 1);

}  // namespace portolan
