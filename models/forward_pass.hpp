// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "models/forward_options.hpp"
#include "models/parallel_context.hpp"

namespace portolan {

/// What all blocks of one forward pass share.
struct ForwardPass {
  const ParallelContext& context;
  SequenceSharding sharding;
  std::int64_t tokens = 0;  ///< of each sequence on this rank, inside blocks
  Tensor ids;               ///< i32 [B, tokens]
  Tensor positions;         ///< of these, i32 [B * tokens]
  Tensor token_types = {};  ///< likewise; undefined if the model knows of none
  ForwardOptions options;
  bool selective = false;

  /// Into a block (TensorParallelGroup::enter).
  [[nodiscard]] Variable enter(const Variable& activation, bool sharded) const {
    return context.tensor().enter(activation, tokens, sharded, selective);
  }
  /// Of this rank's values [B * tokens] i32 those of the tokens that it holds between blocks.
  [[nodiscard]] Tensor between_blocks(const Tensor& values) const;
};

}  // namespace portolan
