// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "core/tensor.hpp"

namespace portolan {

class Model;

using TokenIds = std::vector<std::int32_t>;

/// Logits of the token that follows each of several sequences, row after row.
struct NextTokenLogits {
  Tensor values;  ///< [sequences, vocabulary] f32, contiguous, in host memory

  /// May be changed: nobody else holds these values.
  [[nodiscard]] std::span<float> row(std::int64_t sequence) const {
    const std::int64_t vocabulary = values.dim(1);
    return {values.data<float>() + sequence * vocabulary, static_cast<std::size_t>(vocabulary)};
  }
};

/// Sequences that grow token by token, and what follows them. Collective where the model is: every
/// rank makes the same calls and gets the same bits.
class SequenceScorer {
 public:
  virtual ~SequenceScorer() = default;
  /// Begins with these prompts, none empty.
  [[nodiscard]] virtual NextTokenLogits start(std::span<const TokenIds> prompts) = 0;
  /// Appends one token to each sequence.
  [[nodiscard]] virtual NextTokenLogits append(std::span<const std::int32_t> ids) = 0;
  /// Sequence i goes on as a copy of sequence entries[i]; as many as entries.
  virtual void select(std::span<const std::int64_t> entries) = 0;
};

/// Over a causal model. Prompts of unequal lengths are padded in front. With a cache each token is
/// computed once, without it with all those before; up to `longest` tokens of a sequence. `model`
/// must outlive the scorer. Throws UsageError for a model that is not causal or sequences too long
/// for it.
[[nodiscard]] std::unique_ptr<SequenceScorer> make_scorer(const Model& model, std::int64_t longest,
                                                          bool use_cache);

}  // namespace portolan
