// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "core/tensor.hpp"

namespace portolan {

class Model;

using TokenIds = std::vector<std::int32_t>;

/// Logits of the token that follows each of several sequences, row after row, until their scorer
/// takes the next.
struct NextTokenLogits {
  Tensor values;     ///< [sequences, vocabulary] f32, on the model's device
  Tensor host = {};  ///< the same in host memory, once a row was asked for

  /// In host memory, where all rows are brought the first time. May be changed, with or without
  /// `values`. Holds until the scorer takes the next tokens, which may overwrite both.
  [[nodiscard]] std::span<float> row(std::int64_t sequence);
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
  /// Whether a pass has been recorded so far.
  [[nodiscard]] virtual bool has_recorded() const { return false; }
};

struct ScorerOptions {
  /// Each token is computed once; else with all those before.
  bool use_cache = true;
  /// Whether decoding is recorded and repeated (RecordedDecoding). Absent: where the device gains
  /// by it and the model is on one rank.
  std::optional<bool> record = {};
};

/// Over a causal model. Prompts of unequal lengths are padded in front; up to `longest` tokens of a
/// sequence. `model` must outlive the scorer. Throws UsageError for a model that is not causal,
/// sequences too long for it, and recording without a cache or on several ranks.
[[nodiscard]] std::unique_ptr<SequenceScorer> make_scorer(const Model& model, std::int64_t longest,
                                                          const ScorerOptions& options = {});

}  // namespace portolan
