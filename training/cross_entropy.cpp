// SPDX-License-Identifier: Apache-2.0
#include "training/cross_entropy.hpp"

#include <algorithm>
#include <cmath>

#include "core/error.hpp"
#include "core/ops.hpp"
#include "parallel/gather_values.hpp"

namespace portolan {
namespace {

constexpr std::int64_t kFacts = 3;  // maximum, sum, target: rows of a rank's part

/// Each rank's facts [parts, kFacts, positions] in host memory.
Tensor exchange_facts(const Model& model, const Tensor& own) {
  if (!model.logits_are_sharded()) return ops::to_host(own);
  Communicator& communicator = model.context().tensor().communicator();
  const Tensor all =
      Tensor::empty({communicator.size(), kFacts, own.dim(2)}, DType::f32, own.device());
  communicator.all_gather(own, all, 0, Partition::even(communicator.size(), communicator.size()));
  return ops::to_host(all);
}

}  // namespace

std::vector<std::int32_t> next_token_targets(std::span<const std::int32_t> labels,
                                             std::int64_t batch) {
  const auto length = static_cast<std::ptrdiff_t>(labels.size()) / batch;
  std::vector<std::int32_t> targets(labels.size(), kIgnoredLabel);
  for (std::ptrdiff_t b = 0; b < batch; ++b) {
    std::copy_n(labels.begin() + b * length + 1, std::max<std::ptrdiff_t>(0, length - 1),
                targets.begin() + b * length);
  }
  return targets;
}

CrossEntropy vocabulary_parallel_cross_entropy(const Model& model, const Tensor& logits,
                                               std::span<const std::int32_t> targets) {
  const ProfilingRegion region(model.device(), "Portolan::Training::cross_entropy");
  CrossEntropy result;
  result.scored =
      std::ranges::count_if(targets, [](std::int32_t target) { return target != kIgnoredLabel; });
  require(result.scored > 0, "no position of the batch has a label to be scored");
  const std::int64_t vocabulary = model.plan().dimensions().vocab_size;
  for (const std::int32_t target : targets) {
    require(target == kIgnoredLabel || (target >= 0 && target < vocabulary),
            "label {} lies outside the vocabulary of {}", target, vocabulary);
  }

  const std::int64_t batch = logits.dim(0);
  const std::int64_t positions = batch * logits.dim(1);
  const std::vector<std::int32_t> local = model.local_values(targets, batch);
  const Tensor labels =
      ops::to_device(Tensor::borrow(const_cast<std::int32_t*>(local.data()), {positions},
                                    DType::i32, {DeviceKind::cpu, 0}),
                     model.device());
  const std::int64_t first_column =
      model.plan().vocabulary(model.context().tensor().rank()).row_begin;
  const Tensor rows = functional::rows(logits);

  const Tensor facts = Tensor::empty({1, kFacts, positions}, DType::f32, model.device());
  const auto fact = [&](std::int64_t index) {
    return facts.slice(1, index, index + 1).view({positions});
  };
  ops::cross_entropy_rows(rows, labels, first_column, kIgnoredLabel, fact(0), fact(1), fact(2));
  const Tensor all = exchange_facts(model, facts);
  const std::int64_t parts = all.dim(0);

  std::vector<float> log_sum_exp(static_cast<std::size_t>(positions));
  double sum = 0.0;
  for (std::int64_t i = 0; i < positions; ++i) {
    const auto value = [&](std::int64_t part, std::int64_t index) {
      return static_cast<double>(all.data<float>()[(part * kFacts + index) * positions + i]);
    };
    double maximum = value(0, 0);
    for (std::int64_t part = 1; part < parts; ++part) maximum = std::max(maximum, value(part, 0));
    double exponentials = 0.0;
    double target = 0.0;  // one part has it, the others 0
    for (std::int64_t part = 0; part < parts; ++part) {
      exponentials += value(part, 1) * std::exp(value(part, 0) - maximum);
      target += value(part, 2);
    }
    log_sum_exp[static_cast<std::size_t>(i)] = static_cast<float>(maximum + std::log(exponentials));
    if (local[static_cast<std::size_t>(i)] != kIgnoredLabel) {
      sum += maximum - target + std::log(exponentials);
    }
  }
  for (const double part : gather_values(model.context().mesh().context(), sum)) {
    result.loss += part;
  }
  result.loss /= static_cast<double>(result.scored);

  const Tensor device_log_sum_exp = ops::to_device(
      Tensor::borrow(log_sum_exp.data(), {positions}, DType::f32, {DeviceKind::cpu, 0}),
      model.device());
  ops::cross_entropy_backward(rows, labels, first_column, kIgnoredLabel, device_log_sum_exp,
                              static_cast<float>(1.0 / static_cast<double>(result.scored)), rows);
  result.grad_logits = logits;
  backend_of(model.device()).synchronize();  // host memory was borrowed
  return result;
}

}  // namespace portolan
