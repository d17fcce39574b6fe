// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "apps/attention_error.hpp"
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
