// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <memory>

#include "models/forward_pass.hpp"
#include "models/model_plan.hpp"
#include "models/rotary.hpp"

namespace portolan {

/// What distinguishes the attention of architectures.
struct AttentionKind {
  std::shared_ptr<const RotaryTables> rotary = {};  ///< null: positions are not rotated in
  std::int64_t window = 0;                          ///< 0: none
};

/// The attention of one layer with its two products: q, k and v of this rank's heads side by side,
/// attention over all ranks that hold the sequence, and the product of the heads' outputs.
class AttentionBlock {
 public:
  AttentionBlock(const ModelPlan& plan, int rank, std::int64_t layer, ColumnParallelLinear qkv,
                 RowParallelLinear out, AttentionKind kind = {});

  /// Normed residual stream [B, residual tokens, hidden] -> the same shape, without the bias.
  [[nodiscard]] Variable forward(const Variable& normed, const ForwardPass& pass) const;
  /// What has to be added to it; may be null.
  [[nodiscard]] const ParameterPointer& bias() const noexcept { return out_.bias(); }

 private:
  SelfAttention attention_;
  std::uint64_t layer_;
  bool sharded_;
  ColumnParallelLinear qkv_;
  RowParallelLinear out_;
  std::shared_ptr<const RotaryTables> rotary_;
};

}  // namespace portolan
