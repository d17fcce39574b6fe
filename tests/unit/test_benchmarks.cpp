// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "apps/attention_error.hpp"
#include "apps/benchmark_samples.hpp"
#include "apps/collectives_benchmark.hpp"
#include "apps/matmul_benchmark.hpp"
#include "apps/ring_benchmark.hpp"
#include "core/samples.hpp"
#include "tests/unit/attention_testing.hpp"

namespace portolan::testing_support {
namespace {

TEST(SampleSummary, IsOfTheSortedSamples) {
  const SampleSummary one = summary_of({3.0});
  EXPECT_EQ(one.minimum, 3.0);
  EXPECT_EQ(one.median, 3.0);
  EXPECT_EQ(one.percentile80, 3.0);
  const SampleSummary ten = summary_of({10, 1, 9, 2, 8, 3, 7, 4, 6, 5});
  EXPECT_EQ(ten.minimum, 1.0);
  EXPECT_EQ(ten.median, 5.5);
  EXPECT_EQ(ten.percentile80, 8.0);
  EXPECT_EQ(ten.maximum, 10.0);
  EXPECT_EQ(summary_of({}).median, 0.0);
}

TEST(SampleBudget, EndsWithTheSamplesOrTheTimeButNotBeforeTheFirst) {
  const auto count = [](const SampleLimits& limits) {
    SampleBudget budget(limits);
    int taken = 0;
    while (budget.next()) ++taken;
    return taken;
  };
  EXPECT_EQ(count({.repeat = 3, .seconds = 1e6}), 3);
  EXPECT_EQ(count({.repeat = 1, .seconds = 1e6}), 1);
  EXPECT_EQ(count({.repeat = 1000000000, .seconds = 1e-12}), 1);
}

TEST(Samples, AreToldWithTheirSummary) {
  const nlohmann::ordered_json json = times_json({3.0, 1.0, 2.0});
  EXPECT_EQ(json.dump(), R"({"min":1.0,"median":2.0,"p80":3.0,"samples":[3.0,1.0,2.0]})");
  EXPECT_EQ(times_csv({3.0, 1.0, 2.0}), "3,1,2,3");
}

TEST(CollectivesBenchmark, BusBandwidthsAreThoseOfNcclTests) {
  EXPECT_DOUBLE_EQ(bus_factor(Collective::all_reduce, 2), 1.0);
  EXPECT_DOUBLE_EQ(bus_factor(Collective::all_reduce, 4), 1.5);
  for (const Collective collective :
       {Collective::all_gather, Collective::reduce_scatter, Collective::ring_shift}) {
    EXPECT_DOUBLE_EQ(bus_factor(collective, 2), 0.5);
    EXPECT_DOUBLE_EQ(bus_factor(collective, 4), 0.75);
  }
  EXPECT_DOUBLE_EQ(bus_factor(Collective::broadcast, 4), 1.0);
}

TEST(CollectivesBenchmark, LocalWorkHasTheSumsAndCopiesOfOneRank) {
  using Pieces = LocalWork::Pieces;
  const auto pieces = [](Collective collective, int rank) {
    return LocalWork::pieces(collective, 120, rank, 4);
  };
  EXPECT_EQ(pieces(Collective::all_reduce, 1), (Pieces{true, 30, 4, 0}));
  EXPECT_EQ(pieces(Collective::reduce_scatter, 1), (Pieces{true, 30, 4, 1}));
  EXPECT_EQ(pieces(Collective::all_gather, 1), (Pieces{false, 30, 4, 4}));
  EXPECT_EQ(pieces(Collective::ring_shift, 1), (Pieces{false, 30, 3, 3}));
  EXPECT_EQ(pieces(Collective::broadcast, 1), (Pieces{false, 120, 1, 1}));
  EXPECT_EQ(pieces(Collective::broadcast, 0), (Pieces{false, 0, 0, 0}));
}

TEST(CollectivesBenchmark, SharesAreEvenAndWhole) {
  EXPECT_EQ(CollectiveWork::elements({.dtype = DType::f32, .bytes = 1}, 3), 3);
  EXPECT_EQ(CollectiveWork::elements({.dtype = DType::f32, .bytes = 12}, 3), 3);
  EXPECT_EQ(CollectiveWork::elements({.dtype = DType::bf16, .bytes = 13}, 3), 9);
}

TEST(CollectivesBenchmark, TheLimitIsTheLongerOfMemoryAndLink) {
  CollectiveRow row{.setting = {.collective = Collective::all_reduce, .bytes = 3000},
                    .ranks = 3,
                    .samples_s = {1e-6, 3e-6, 2e-6},
                    .local_s = {1e-6}};
  EXPECT_DOUBLE_EQ(row.rate(), 1.5e9);
  EXPECT_DOUBLE_EQ(row.bus_rate(), 2e9);
  EXPECT_EQ(row.limit(), "memory");
  EXPECT_DOUBLE_EQ(row.limit_share(), 0.5);
  row.link_s = 1.5e-6;
  EXPECT_EQ(row.limit(), "link");
  EXPECT_DOUBLE_EQ(row.limit_share(), 0.75);
}

TEST(MatmulBenchmark, TheLimitIsTheLongerOfArithmeticAndReading) {
  MatmulRow row;
  row.setting.rows = 10;
  row.setting.outputs = 100;
  row.setting.inputs = 1000;
  row.ranks = 2;
  row.samples_s = {4e-3};
  row.weight_bytes = 400000;
  row.product_rate = 4e9;  // of both ranks: 1 ms for a rank's 2 MFLOP
  row.read_rate = 1.6e9;   // of both ranks: 0.5 ms for a rank's 400 kB
  EXPECT_DOUBLE_EQ(row.flop_rate(), 1e9);
  EXPECT_DOUBLE_EQ(row.weight_rate(), 2e8);
  EXPECT_EQ(row.limit(), "FLOP/s");
  EXPECT_DOUBLE_EQ(row.limit_share(), 0.25);
  row.read_rate = 4e8;
  EXPECT_EQ(row.limit(), "read");
  EXPECT_DOUBLE_EQ(row.limit_share(), 0.5);
}

TEST(MatmulBenchmark, SampledErrorSeesNoneInTheProductAndAnyInTheLastOutput) {
  constexpr std::int64_t kRows = 5;
  constexpr std::int64_t kOutputs = 70;
  constexpr std::int64_t kInputs = 33;
  const Device device{DeviceKind::serial, 0};
  const auto weight_row = [](std::int64_t output) {
    std::vector<float> row(kInputs);
    for (std::int64_t i = 0; i < kInputs; ++i) {
      row[static_cast<std::size_t>(i)] = static_cast<float>((3 * output + 5 * i) % 7 - 3);
    }
    return row;
  };
  std::vector<double> x(kRows * kInputs);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<double>(i % 11) - 5.0;
  std::vector<double> out(kRows * kOutputs);
  for (std::int64_t row = 0; row < kRows; ++row) {
    for (std::int64_t output = 0; output < kOutputs; ++output) {
      const std::vector<float> weights = weight_row(output);
      for (std::int64_t i = 0; i < kInputs; ++i) {
        out[static_cast<std::size_t>(row * kOutputs + output)] +=
            x[static_cast<std::size_t>(row * kInputs + i)] * weights[static_cast<std::size_t>(i)];
      }
    }
  }
  const Tensor x_tensor = Tensor::empty({kRows, kInputs}, DType::f32, device);
  const Tensor out_tensor = Tensor::empty({kRows, kOutputs}, DType::f32, device);
  set_values(x_tensor, x);
  set_values(out_tensor, out);
  EXPECT_EQ(sampled_product_error(x_tensor, out_tensor, weight_row), 0.0);
  out.back() += 0.25;
  set_values(out_tensor, out);
  EXPECT_EQ(sampled_product_error(x_tensor, out_tensor, weight_row), 0.25);
  out.back() = std::numeric_limits<double>::quiet_NaN();
  set_values(out_tensor, out);
  EXPECT_TRUE(std::isinf(sampled_product_error(x_tensor, out_tensor, weight_row)));
}

TEST(RingBenchmark, PromptsHaveAsManyTokensAsThePublishedOnes) {
  EXPECT_EQ(numeric_prompt_tokens(1), 1);
  EXPECT_EQ(numeric_prompt_tokens(10), 28);
  EXPECT_EQ(numeric_prompt_tokens(1000), 1000 + 1998);
  EXPECT_EQ(numeric_prompt_tokens(1001), 1002 + 2000);
  EXPECT_EQ(numeric_prompt_tokens(2000), 6998);
  EXPECT_EQ(numeric_prompt_tokens(1000001), 1000 + 2 * 999000 + 3 + 2000000);
}

AttentionSetup make_problem(std::int64_t window) {
  AttentionCase test_case{
      .batch = 2, .query_tokens = 33, .key_tokens = 33, .heads = 4, .key_heads = 2};
  test_case.mask.window = window;
  return make_setup(test_case, {DeviceKind::serial, 0});
}

TEST(AttentionErrorSample, SeesNoErrorInTheReferenceAndAnyInAWrongRow) {
  for (const std::int64_t window : {0, 5}) {
    const AttentionSetup setup = make_problem(window);
    const std::vector<double> expected = reference::attention(setup.reference).out;
    set_values(setup.out, expected);
    const AttentionErrorSample sample(setup.problem);
    EXPECT_LT(sample.forward_error(setup.out), 1e-6);
    // The last row of the last head is always among the sampled.
    std::vector<double> wrong = expected;
    wrong.back() += 0.25;
    set_values(setup.out, wrong);
    EXPECT_NEAR(sample.forward_error(setup.out), 0.25, 1e-6);
    wrong.back() = std::numeric_limits<double>::quiet_NaN();
    set_values(setup.out, wrong);
    EXPECT_TRUE(std::isinf(sample.forward_error(setup.out)));
  }
}

TEST(AttentionErrorSample, SeesAnyErrorInTheGradients) {
  const AttentionSetup setup = make_problem(0);
  const reference::AttentionGradient expected =
      reference::attention_gradient(setup.reference, setup.grad_out);
  const AttentionErrorSample sample(setup.problem);
  const auto set = [&](double dq, double dk, double dv) {
    // The last row of dq, and the last key's of dk and dv, are always among the sampled.
    std::vector<double> values = expected.dq;
    values.back() += dq;
    set_values(setup.gradients.dq, values);
    values = expected.dk;
    values.back() += dk;
    set_values(setup.gradients.dk, values);
    values = expected.dv;
    values.back() += dv;
    set_values(setup.gradients.dv, values);
  };
  set(0.0, 0.0, 0.0);
  EXPECT_LT(sample.backward_error(setup.gradients), 1e-6);
  set(0.25, 0.0, 0.0);
  EXPECT_NEAR(sample.backward_error(setup.gradients), 0.25, 1e-6);
  set(0.0, 0.25, 0.0);
  EXPECT_NEAR(sample.backward_error(setup.gradients), 0.25, 1e-6);
  set(0.0, 0.0, 0.25);
  EXPECT_NEAR(sample.backward_error(setup.gradients), 0.25, 1e-6);
}

}  // namespace
}  // namespace portolan::testing_support
