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

/// What a model is loaded for.
struct ModelUse {
  std::int64_t tokens = 0;      ///< of a sequence, in one forward
  std::int64_t batch = 1;       ///< sequences of a forward
  bool last_only = false;       ///< logits are of the last token of each
  std::int64_t new_tokens = 0;  ///< that follow, in forwards of their own
  std::int64_t cached = 0;      ///< sequences whose keys and values are kept
};

/// Loads this rank's shards in the dtype and layout that the options ask for. Throws
/// OutOfMemoryError before loading what cannot fit. Collective.
[[nodiscard]] LoadedModel load_model(const Checkpoint& checkpoint, const CommonOptions& options,
                                     const ModelUse& use, const Runtime& runtime);

}  // namespace portolan
