// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "models/rotary.hpp"

namespace portolan {
namespace {

LlamaConfig config_of(std::int64_t head_dim, double theta, RopeScaling scaling) {
  LlamaConfig config;
  config.head_dim = head_dim;
  config.rope_theta = theta;
  config.rope_scaling = scaling;
  return config;
}

void expect_frequencies(const LlamaConfig& config, const std::vector<double>& expected) {
  const std::vector<double> found = rotary_inverse_frequencies(config);
  ASSERT_EQ(found.size(), expected.size());
  for (std::size_t i = 0; i < found.size(); ++i) {
    EXPECT_NEAR(found[i], expected[i], 1e-6 * expected[i]) << "of pair " << i;
  }
}

// What the function of transformers 5.23 gives for the same fields, in f32.
TEST(Rotary, FrequenciesOfYarnAreThoseOfTransformers) {
  YarnRopeScaling scaling{.factor = 16.0, .original_max_position_embeddings = 4096};
  expect_frequencies(config_of(16, 1e4, scaling),
                     {1.0, 0.316227764, 0.100000001, 0.0242111888, 0.00531250006, 0.000938801211,
                      6.2500003e-05, 1.97642366e-05});

  scaling = {.factor = 4.0,
             .original_max_position_embeddings = 256,
             .beta_fast = 8.0,
             .beta_slow = 0.5,
             .truncate = false};
  expect_frequencies(config_of(16, 1e4, scaling),
                     {1.0, 0.316227764, 0.0817482919, 0.016002778, 0.00249999994, 0.000790569466,
                      0.000250000012, 7.90569466e-05});
}

TEST(Rotary, YarnKeepsFirstFrequenciesEvenWhereNoneTurnsWithinTheContext) {
  const YarnRopeScaling scaling{.factor = 40.0, .original_max_position_embeddings = 8};
  expect_frequencies(config_of(12, 5e5, scaling), {1.0, 0.00280615478, 0.000314980221,
                                                   3.53553369e-05, 3.96850146e-06, 4.45449473e-07});
}

TEST(Rotary, FrequenciesOfDynamicScalingArePlain) {
  EXPECT_EQ(rotary_inverse_frequencies(config_of(16, 1e4, DynamicRopeScaling{4.0})),
            rotary_inverse_frequencies(config_of(16, 1e4, NoRopeScaling{})));
}

TEST(Rotary, TablesOfYarnAreMultipliedByItsAttentionFactor) {
  YarnRopeScaling scaling{.factor = 8.0, .original_max_position_embeddings = 64};
  constexpr Device kDevice{DeviceKind::serial, 0};
  const auto tables_with = [&](double factor) {
    scaling.attention_factor = factor;
    return make_rotary_tables(config_of(8, 1e4, scaling), 9, kDevice);
  };
  const RotaryTables plain = tables_with(1.0);
  const RotaryTables scaled = tables_with(1.25);
  for (std::int64_t i = 0; i < plain.cosines.elements(); ++i) {
    EXPECT_FLOAT_EQ(scaled.cosines.data<float>()[i], 1.25F * plain.cosines.data<float>()[i]);
    EXPECT_FLOAT_EQ(scaled.sines.data<float>()[i], 1.25F * plain.sines.data<float>()[i]);
  }
}

}  // namespace
}  // namespace portolan
