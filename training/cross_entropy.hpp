// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "models/model.hpp"

namespace portolan {

/// Labels of this value are not scored.
inline constexpr std::int32_t kIgnoredLabel = -100;

/// What each position has to predict in a causal model: the label of the position after it, and
/// nothing at the end of each sequence. labels [batch, length].
[[nodiscard]] std::vector<std::int32_t> next_token_targets(std::span<const std::int32_t> labels,
                                                           std::int64_t batch);

struct CrossEntropy {
  double loss = 0.0;  ///< mean over the scored positions of all ranks
  std::int64_t scored = 0;
  Tensor grad_logits;  ///< of the mean, in the memory of the logits
};

/// Cross-entropy of a model's logits [batch, block tokens, vocabulary rows], this rank's part, with
/// targets [batch, length], the same on every rank. Ranks that share the vocabulary exchange three
/// numbers for each position; logits are never gathered. Overwrites the logits. Collective. Throws
/// UsageError if no position is scored, or by a label that the vocabulary has not.
[[nodiscard]] CrossEntropy vocabulary_parallel_cross_entropy(const Model& model,
                                                             const Tensor& logits,
                                                             std::span<const std::int32_t> targets);

}  // namespace portolan
