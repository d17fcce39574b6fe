// SPDX-License-Identifier: Apache-2.0
#include "training/trainer.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

#include "core/backend.hpp"
#include "core/error.hpp"
#include "training/cross_entropy.hpp"

namespace portolan {

Trainer::Trainer(const Model& model, std::unique_ptr<Optimizer> optimizer,
                 const TrainerOptions& options)
    : model_(model), optimizer_(std::move(optimizer)), options_(options), gradients_(model) {}

TrainingStep Trainer::step(const TrainingBatch& batch,
                           const std::function<void(const ShardedGradients&)>& inspect) {
  const ProfilingRegion region(model_.device(), "Portolan::Trainer::step");
  require(batch.labels.size() == batch.ids.size(), "{} labels for {} token ids",
          batch.labels.size(), batch.ids.size());
  TrainingStep result{.step = steps_, .learning_rate = options_.schedule.at(steps_)};
  gradients_.clear();

  Tape tape;
  const ForwardOptions options{
      .tape = &tape,
      .recomputation = options_.recomputation,
      .attention_dropout = options_.attention_dropout,
      .dropout_key = random_key(options_.seed, fmt::format("attention dropout, step {}", steps_)),
      .real_tokens = batch.real_tokens};
  const Variable logits = model_.forward(batch.ids, batch.batch, options);
  CrossEntropy loss = vocabulary_parallel_cross_entropy(model_, logits.value(), targets(batch));
  result.loss = loss.loss;
  result.scored = loss.scored;
  tape.backward(logits, std::move(loss.grad_logits));

  result.gradient_norm = gradients_.norm();
  // The same on all ranks. Parameters and moments would keep what is no number.
  if (!std::isfinite(result.loss) || !std::isfinite(result.gradient_norm)) {
    throw Error(
        fmt::format("step {}: the loss is {}, the gradients' norm {}: training cannot go on, "
                    "nothing was updated",
                    steps_, result.loss, result.gradient_norm));
  }
  if (inspect) inspect(gradients_);
  // As PyTorch's clip_grad_norm_ does, with its guard against a norm of 0.
  constexpr double kGuard = 1e-6;
  const double scale = options_.clip_norm
                           ? std::min(1.0, *options_.clip_norm / (result.gradient_norm + kGuard))
                           : 1.0;
  optimizer_->step(result.learning_rate, scale);
  ++steps_;
  return result;
}

double Trainer::evaluate(const TrainingBatch& batch) const {
  const Variable logits =
      model_.forward(batch.ids, batch.batch, {.real_tokens = batch.real_tokens});
  return vocabulary_parallel_cross_entropy(model_, logits.value(), targets(batch)).loss;
}

std::vector<std::int32_t> Trainer::targets(const TrainingBatch& batch) const {
  return model_.is_causal() ? next_token_targets(batch.labels, batch.batch) : batch.labels;
}

}  // namespace portolan
