// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cmath>
#include <numbers>

#include "core/error.hpp"
#include "core/ops.hpp"
#include "models/config.hpp"
#include "training/cross_entropy.hpp"
#include "training/learning_rate.hpp"
#include "training/optimizer.hpp"

namespace portolan {
namespace {

TEST(LearningRate, WarmsUpThenFollowsItsSchedule) {
  LearningRateSchedule schedule{.peak = 2.0, .warmup_steps = 4, .total_steps = 12};
  EXPECT_DOUBLE_EQ(schedule.at(0), 0.5);
  EXPECT_DOUBLE_EQ(schedule.at(3), 2.0);
  EXPECT_DOUBLE_EQ(schedule.at(11), 2.0);
  schedule.decay = LearningRateDecay::linear;
  EXPECT_DOUBLE_EQ(schedule.at(4), 2.0);
  EXPECT_DOUBLE_EQ(schedule.at(8), 1.0);
  EXPECT_DOUBLE_EQ(schedule.at(12), 0.0);
  EXPECT_DOUBLE_EQ(schedule.at(99), 0.0);
  schedule.decay = LearningRateDecay::cosine;
  EXPECT_NEAR(schedule.at(6), 1.0 + std::cos(std::numbers::pi / 4), 1e-12);
  EXPECT_NEAR(schedule.at(8), 1.0, 1e-12);
  EXPECT_THROW(static_cast<void>(learning_rate_decay_from_name("steep")), UsageError);
}

TEST(Targets, AreTheNextLabelsOfEachSequence) {
  const std::vector<std::int32_t> labels{1, 2, 3, 4, kIgnoredLabel, 6};
  EXPECT_EQ(next_token_targets(labels, 2),
            (std::vector<std::int32_t>{2, 3, kIgnoredLabel, kIgnoredLabel, 6, kIgnoredLabel}));
}

ParameterPointer constant(const Shape& shape, float value) {
  constexpr Device kDevice{DeviceKind::serial, 0};
  const Tensor master = Tensor::empty(shape, DType::f32, kDevice);
  ops::fill(master, value);
  return Parameter::trainable({{"p", 0, shape[0]}}, master, DType::bf16);
}

TEST(Optimizer, DecaysMatricesAndNormsOnlyIfAsked) {
  const ParameterPointer matrix = constant({2, 3}, 1.0F);
  const ParameterPointer norm = constant({3}, 1.0F);
  for (const bool all : {false, true}) {
    double decay_of_norm = -1.0;
    double decay_of_matrix = -1.0;
    for (const ParameterGroup& group : decay_groups({matrix, norm}, 0.1, all)) {
      for (const ParameterPointer& parameter : group.parameters) {
        (parameter == norm ? decay_of_norm : decay_of_matrix) = group.weight_decay;
      }
    }
    EXPECT_EQ(decay_of_matrix, 0.1);
    EXPECT_EQ(decay_of_norm, all ? 0.1 : 0.0);
  }
}

TEST(Optimizer, SgdWithMomentumFollowsItsRecurrence) {
  const ParameterPointer parameter = constant({2, 2}, 1.0F);
  const std::unique_ptr<Optimizer> sgd = make_sgd({{{parameter}, 0.5}}, 0.9);
  double value = 1.0;
  double momentum = 0.0;
  for (int step = 0; step < 5; ++step) {
    parameter->clear_gradient();
    ops::fill(parameter->gradient(), 2.0F);
    sgd->step(0.1, 0.5);
    momentum = 0.9 * momentum + (0.5 * 2.0 + 0.5 * value);
    value -= 0.1 * momentum;
    EXPECT_NEAR(parameter->master().data<float>()[3], value, 1e-6) << step;
    EXPECT_NEAR(to_float(parameter->value().data<BFloat16>()[3]), value, 0.01)
        << "the compute form";
  }
  EXPECT_EQ(sgd->state_bytes(), 16);
}

TEST(Optimizer, ParametersWithoutAGradientStayAsTheyAre) {
  const ParameterPointer parameter = constant({2, 2}, 1.0F);
  make_adamw({{{parameter}, 0.5}}, {})->step(0.1, 1.0);
  EXPECT_EQ(parameter->master().data<float>()[0], 1.0F);
}

TEST(Optimizer, AdamWRefusesWhatWouldDivideByZero) {
  for (const AdamWOptions& options :
       {AdamWOptions{.beta1 = 1.0}, AdamWOptions{.beta2 = 1.0 - 1e-12}, AdamWOptions{.beta1 = -0.1},
        AdamWOptions{.epsilon = 0.0}, AdamWOptions{.epsilon = 1e-60},
        AdamWOptions{.epsilon = std::nan("")}}) {
    EXPECT_THROW(static_cast<void>(make_adamw({}, options)), UsageError);
  }
}

TEST(Optimizer, AdamWLeavesWhatHasNoGradientsButZeros) {
  const ParameterPointer parameter = constant({2, 2}, 1.0F);
  const auto adamw = make_adamw({{{parameter}, 0.0}}, {.beta1 = 0.0, .beta2 = 0.0});
  for (int step = 0; step < 3; ++step) {
    parameter->clear_gradient();
    ops::fill(parameter->gradient(), 0.0F);
    adamw->step(0.1, 1.0);
    EXPECT_EQ(parameter->master().data<float>()[0], 1.0F);
  }
}

TEST(ConfigText, IsReadBackAsTheSameConfig) {
  LlamaConfig config = preset_config("llama-3-8b").llama();
  for (const RopeScaling& scaling :
       {RopeScaling(NoRopeScaling{}), RopeScaling(LinearRopeScaling{.factor = 2.5}),
        RopeScaling(DynamicRopeScaling{.factor = 3.0}),
        RopeScaling(Llama3RopeScaling{.factor = 4.0, .low_freq_factor = 1.5}),
        RopeScaling(YarnRopeScaling{.factor = 16.0,
        .original_max_position_embeddings = 4096,
        .beta_fast = 24.0,
        .beta_slow = 2.0,
        .truncate = false,
        .attention_factor = 1.125})}) {
    config.rope_scaling = scaling;
    EXPECT_EQ(parse_model_config(config_text(config), "text").llama(), config);
  }
  config.sliding_window = 17;
  config.tie_word_embeddings = true;
  config.eos_token_ids = {3, 4};
  EXPECT_EQ(parse_model_config(config_text(config), "text").llama(), config);
  config.sliding_window.reset();
  config.attention_bias = true;
  EXPECT_EQ(parse_model_config(config_text(config), "text").llama(), config);
  config.attention_bias = false;
  config.mlp_bias = true;
  EXPECT_EQ(parse_model_config(config_text(config), "text").llama(), config);
}

TEST(ConfigText, OfEveryPresetIsReadBackAsTheSameConfig) {
  for (const std::string& name : preset_names()) {
    const ModelConfig config = preset_config(name);
    EXPECT_EQ(parse_model_config(config_text(config), "text"), config) << name;
  }
  GptBigCodeConfig multi_head = preset_config("gpt-bigcode-tiny").as<GptBigCodeConfig>();
  multi_head.kv_heads = multi_head.attention_heads;
  multi_head.activation = GeluKind::erf;
  EXPECT_EQ(parse_model_config(config_text(multi_head), "text"), ModelConfig(multi_head));
}

}  // namespace
}  // namespace portolan
