// SPDX-License-Identifier: Apache-2.0
// Losses, gradients and optimizer curves of the golden model under every mode that the number of
// ranks allows. Run under mpirun with 1, 2, 3 and 4 ranks.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/error.hpp"
#include "core/json_file.hpp"
#include "core/ops.hpp"
#include "core/safetensors.hpp"
#include "models/registry.hpp"
#include "tests/mpi/layouts.hpp"
#include "tests/mpi/test_runtime.hpp"
#include "training/cross_entropy.hpp"
#include "training/trainer.hpp"

namespace portolan {
namespace {

std::string folder_of(const std::string& model) {
  return std::string(PORTOLAN_TEST_DATA) + "/models/" + model;
}

TrainingBatch golden_batch(const std::string& model = "llama-tiny-gqa") {
  const SafetensorsFile file(folder_of(model) + "/expected.safetensors");
  const auto read = [&file](const char* name) {
    const SafetensorsEntry& entry = file.at(name);
    std::vector<std::int64_t> wide(static_cast<std::size_t>(entry.elements()));
    file.read(entry, wide.data(), DType::i64);
    return std::vector<std::int32_t>(wide.begin(), wide.end());
  };
  TrainingBatch batch{read("train.input_ids"), read("train.labels"),
                      file.at("train.input_ids").shape[0]};
  const std::vector<std::int32_t> mask = read("train.attention_mask");
  const auto length = std::ssize(mask) / batch.batch;
  for (std::int64_t row = 0; row < batch.batch; ++row) {
    const auto first = mask.begin() + row * length;
    batch.real_tokens.push_back({0, std::count(first, first + length, 1)});
  }
  return batch;
}

/// A model for training on all ranks, freshly loaded.
class TrainedModel {
 public:
  explicit TrainedModel(const ParallelLayout& layout, const std::string& model = "llama-tiny-gqa",
                        DType dtype = DType::f32, Communicator& ranks = test_world())
      : name_(model),
        checkpoint_(folder_of(model)),
        context_(ranks, layout),
        weights_(make_checkpoint_weights(checkpoint_)),
        model_(make_model({.plan = ModelPlan(checkpoint_.config(), layout),
                           .context = context_,
                           .weights = *weights_,
                           .dtype = dtype,
                           .device = test_device(),
                           .maximum_length = 64,
                           .use = ParameterUse::training})) {}

  [[nodiscard]] const std::string& name() const { return name_; }
  [[nodiscard]] const Model& model() const { return *model_; }
  [[nodiscard]] Trainer trainer(TrainerOptions options = {}) const {
    options.schedule.peak = 1e-3;
    return {*model_, make_adamw(decay_groups(model_->parameters(), 0.1, true), {}), options};
  }

 private:
  std::string name_;
  Checkpoint checkpoint_;
  ParallelContext context_;
  std::unique_ptr<WeightSource> weights_;
  std::unique_ptr<Model> model_;
};

using Gradients = std::map<std::string, std::vector<float>>;

Gradients gradients_of(const TrainedModel& setup, const TrainingBatch& batch,
                       const TrainerOptions& options = {}) {
  Gradients gradients;
  Trainer trainer = setup.trainer(options);
  trainer.step(batch, [&](const ShardedGradients& sharded) {
    sharded.visit_gradients(
        [&](const std::string& name, const Tensor& whole) { gradients[name] = values_of(whole); });
  });
  return gradients;
}

Gradients gradients_of_first_step(const TrainedModel& setup, const TrainerOptions& options = {}) {
  return gradients_of(setup, golden_batch(setup.name()), options);
}

void for_each_layout(const std::function<void(const ParallelLayout&)>& test) {
  for (const ParallelLayout& layout : layouts(test_world().size())) {
    SCOPED_TRACE(layout.mesh.to_string() + (layout.sequence_parallel ? " sequence parallel" : ""));
    test(layout);
  }
}

class GoldenTraining : public ::testing::TestWithParam<std::string> {
 protected:
  [[nodiscard]] std::string folder() const { return folder_of(GetParam()); }
  [[nodiscard]] TrainingBatch batch() const { return golden_batch(GetParam()); }
};

INSTANTIATE_TEST_SUITE_P(Models, GoldenTraining,
                         ::testing::Values("llama-tiny-gqa", "llama-tiny-bias", "gpt-bigcode-tiny",
                                           "roberta-tiny"),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::ranges::replace(name, '-', '_');
                           return name;
                         });

TEST_P(GoldenTraining, LossAndAllGradientsEqualTheReference) {
  const double expected = read_json_file(folder() + "/expected.json").at("train").at("loss_f64");
  const SafetensorsFile golden(folder() + "/grads.safetensors");
  for_each_layout([&](const ParallelLayout& layout) {
    const TrainedModel setup(layout, GetParam());
    EXPECT_NEAR(setup.trainer().evaluate(batch()), expected, 1e-5);
    const Gradients gradients = gradients_of_first_step(setup);
    for (const SafetensorsEntry& entry : golden.entries()) {
      ASSERT_TRUE(gradients.contains(entry.name)) << entry.name;
      std::vector<float> values(static_cast<std::size_t>(entry.elements()));
      golden.read(entry, values.data(), DType::f32);
      const std::vector<float>& ours = gradients.at(entry.name);
      ASSERT_EQ(ours.size(), values.size()) << entry.name;
      double largest = 0.0;
      double difference = 0.0;
      for (std::size_t i = 0; i < values.size(); ++i) {
        largest = std::max(largest, std::abs(double{values[i]}));
        difference = std::max(difference, std::abs(double{values[i]} - double{ours[i]}));
      }
      EXPECT_LE(difference, std::max(1e-7, 5e-5 * largest)) << entry.name;
    }
    EXPECT_EQ(gradients.size(), golden.entries().size());
  });
}

TEST_P(GoldenTraining, AdamWCurvesEqualTheReference) {
  const auto train = read_json_file(folder() + "/expected.json").at("train");
  for_each_layout([&](const ParallelLayout& layout) {
    for (const bool clips : {false, true}) {
      SCOPED_TRACE(clips ? "clipped to 1" : "not clipped");
      const auto& curve = train.at(clips ? "clip_1.0" : "no_clip");
      const TrainedModel setup(layout, GetParam());
      TrainerOptions options;
      if (clips) options.clip_norm = 1.0;
      Trainer trainer = setup.trainer(options);
      const auto& losses = curve.at("losses");
      const auto& norms = curve.at("grad_norms_before_clipping");
      for (std::size_t step = 0; step < norms.size(); ++step) {
        const TrainingStep result = trainer.step(batch());
        EXPECT_NEAR(result.loss, losses.at(step).get<double>(), 1e-4) << step;
        EXPECT_NEAR(result.gradient_norm, norms.at(step).get<double>(), 1e-3) << step;
      }
      EXPECT_NEAR(trainer.evaluate(batch()), losses.back().get<double>(), 1e-4);
    }
  });
}

TEST_P(GoldenTraining, SameBitsFromRunToRunAndUnderRecomputation) {
  for_each_layout([&](const ParallelLayout& layout) {
    const TrainedModel setup(layout, GetParam());
    const TrainedModel again(layout, GetParam());
    const Gradients gradients = gradients_of_first_step(setup);
    EXPECT_EQ(gradients_of_first_step(again), gradients);
    for (const Recomputation recomputation : {Recomputation::selective, Recomputation::full}) {
      const TrainedModel recomputing(layout, GetParam());
      EXPECT_EQ(gradients_of_first_step(recomputing, {.recomputation = recomputation}), gradients)
          << name_of(recomputation);
    }
  });
}

TEST_P(GoldenTraining, SequencesOfFewerTokensThanRanksGiveTheGradientsOfOneRank) {
  const auto single = make_single_communicator();
  for (const std::int64_t length : {2, 3}) {
    TrainingBatch batch = golden_batch(GetParam());
    batch.ids.resize(static_cast<std::size_t>(2 * length));
    batch.labels = batch.ids;
    batch.batch = 2;
    batch.real_tokens = {{0, length}, {0, 2}};
    if (length > 2) batch.labels.back() = kIgnoredLabel;  // of padding
    const Gradients expected =
        gradients_of(TrainedModel({}, GetParam(), DType::f32, *single), batch);
    float largest = 0.0F;
    for (const auto& [name, values] : expected) {
      for (const float value : values) largest = std::max(largest, std::abs(value));
    }
    for_each_layout([&](const ParallelLayout& layout) {
      const Gradients found = gradients_of(TrainedModel(layout, GetParam()), batch);
      ASSERT_EQ(found.size(), expected.size());
      for (const auto& [name, values] : expected) {
        const std::vector<float>& own = found.at(name);
        ASSERT_EQ(own.size(), values.size()) << name;
        for (std::size_t i = 0; i < values.size(); ++i) {
          // Of the largest of all: those of keys cancel out where a token sees itself alone.
          ASSERT_NEAR(own[i], values[i], 1e-5F * largest) << name;
        }
      }
    });
  }
}

TEST(Training, HooksFireOnceForEachParameterWhenItsGradientIsComplete) {
  for (const Recomputation recomputation : {Recomputation::none, Recomputation::full}) {
    const TrainedModel setup(layouts(test_world().size()).front());
    const std::vector<ParameterPointer> parameters = setup.model().parameters();
    std::vector<int> calls(parameters.size(), 0);
    std::vector<std::shared_ptr<const Parameter::Hook>> hooks;
    std::vector<std::vector<float>> seen(parameters.size());
    const auto copy = [](Parameter& parameter) { return values_of(parameter.gradient()); };
    Trainer trainer = setup.trainer({.recomputation = recomputation});
    for (std::size_t i = 0; i < parameters.size(); ++i) {
      hooks.push_back(parameters[i]->add_hook([&, i](Parameter& parameter) {
        ++calls[i];
        seen[i] = copy(parameter);
      }));
    }
    trainer.step(golden_batch(), [&](const ShardedGradients&) {
      for (std::size_t i = 0; i < parameters.size(); ++i) EXPECT_EQ(seen[i], copy(*parameters[i]));
    });
    EXPECT_EQ(calls, std::vector<int>(parameters.size(), 1));
  }
}

TEST(Training, Bf16ComputeOverF32MastersFollowsTheF32Curve) {
  const auto losses = read_json_file(folder_of("llama-tiny-gqa") + "/expected.json")
                          .at("train")
                          .at("no_clip")
                          .at("losses");
  for_each_layout([&](const ParallelLayout& layout) {
    const TrainedModel setup(layout, "llama-tiny-gqa", DType::bf16);
    Trainer trainer = setup.trainer();
    for (std::size_t step = 0; step + 1 < losses.size(); ++step) {
      // bf16 keeps 8 bits: a few per cent of the loss after ten steps of a model this small.
      const double expected = losses.at(step).get<double>();
      EXPECT_NEAR(trainer.step(golden_batch()).loss, expected, 0.04 * expected) << step;
    }
  });
}

TEST(Training, ALossThatIsNoNumberEndsItBeforeAnythingIsUpdated) {
  for_each_layout([&](const ParallelLayout& layout) {
    const TrainedModel setup(layout);
    Trainer trainer = setup.trainer();
    Parameter& last = *setup.model().parameters().back();
    const auto first_of = [](const Parameter& parameter) {
      return values_of(parameter.master()).front();
    };
    const float before = first_of(*setup.model().parameters().front());
    ops::fill(last.master(), std::numeric_limits<float>::quiet_NaN());
    last.refresh();
    EXPECT_THROW(trainer.step(golden_batch()), Error);
    EXPECT_EQ(first_of(*setup.model().parameters().front()), before);
  });
}

TEST(Training, LabelsOutsideTheVocabularyAreRefusedOnEveryRank) {
  const TrainedModel setup(layouts(test_world().size()).front());
  Trainer trainer = setup.trainer();
  for (const std::int32_t label : {-1, 1 << 20}) {
    TrainingBatch batch = golden_batch();
    batch.labels.at(1) = label;
    EXPECT_THROW(trainer.step(batch), UsageError);
  }
  EXPECT_TRUE(std::isfinite(trainer.step(golden_batch()).loss)) << "as if nothing had happened";
}

}  // namespace
}  // namespace portolan
