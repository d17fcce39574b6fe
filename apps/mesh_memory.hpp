// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "models/model_plan.hpp"

namespace portolan {

/// The tokens of one forward pass.
struct ForwardSize {
  std::int64_t batch = 1;
  std::int64_t sequence_length = 1;
};

/// Throws UsageError naming --batch and --seq-len for no tokens, and for so many that bytes would
/// not fit 63 bits.
void check_forward(const ForwardSize& size);

/// What each rank of a mesh holds of a model, by the plan's arithmetic.
struct MeshMemory {
  ParallelLayout layout;
  DType dtype = DType::f32;
  std::vector<std::int64_t> weight_bytes;  ///< by rank
  /// With the forward pass: what ModelPlan::activation_bytes counts, by rank.
  std::optional<ForwardSize> forward;
  std::vector<std::int64_t> activation_bytes;
};

[[nodiscard]] MeshMemory memory_of_mesh(const ModelPlan& plan, DType dtype,
                                        const std::optional<ForwardSize>& forward);

/// {"mesh", "sequence_parallel", "ranks", "dtype", "weight_bytes_per_rank"} and, with a forward
/// pass, {"batch", "seq_len", "activation_bytes_per_rank"}.
[[nodiscard]] nlohmann::ordered_json to_json(const MeshMemory& memory);
/// A table for people, one line per rank.
[[nodiscard]] std::string to_text(const MeshMemory& memory);

}  // namespace portolan
