// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "models/model.hpp"
#include "training/learning_rate.hpp"
#include "training/optimizer.hpp"
#include "training/sharded_gradients.hpp"

namespace portolan {

/// Token ids and labels [batch, length], the same on every rank; labels are not shifted,
/// kIgnoredLabel is not scored.
struct TrainingBatch {
  std::vector<std::int32_t> ids;
  std::vector<std::int32_t> labels;
  std::int64_t batch = 0;
  /// As ForwardOptions::real_tokens.
  std::vector<KeyRange> real_tokens = {};
};

struct TrainerOptions {
  LearningRateSchedule schedule = {};
  std::optional<double> clip_norm = {};
  Recomputation recomputation = Recomputation::none;
  float attention_dropout = 0.0F;
  std::uint64_t seed = 0;  ///< of dropout
};

struct TrainingStep {
  std::int64_t step = 0;
  double loss = 0.0;           ///< before this step's update, mean over the scored positions
  double gradient_norm = 0.0;  ///< before clipping
  double learning_rate = 0.0;
  std::int64_t scored = 0;
};

/// One model, one optimizer, step by step. Every call is collective.
class Trainer {
 public:
  /// `model` was made for training and outlives the trainer.
  Trainer(const Model& model, std::unique_ptr<Optimizer> optimizer, const TrainerOptions& options);

  /// Forward, backward, update. `inspect`, if given, sees the gradients before clipping. Throws
  /// Error, with nothing updated, if the loss or the gradients are not finite.
  TrainingStep step(const TrainingBatch& batch,
                    const std::function<void(const ShardedGradients&)>& inspect = {});

  /// The loss alone; nothing is recorded or updated.
  [[nodiscard]] double evaluate(const TrainingBatch& batch) const;

  [[nodiscard]] const ShardedGradients& gradients() const noexcept { return gradients_; }

 private:
  /// What each position has to predict.
  [[nodiscard]] std::vector<std::int32_t> targets(const TrainingBatch& batch) const;

  const Model& model_;
  std::unique_ptr<Optimizer> optimizer_;
  TrainerOptions options_;
  ShardedGradients gradients_;
  std::int64_t steps_ = 0;
};

}  // namespace portolan
