// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <functional>
#include <vector>

#include "tests/reference/training_reference.hpp"
#include "tests/unit/op_list.hpp"

/// The oracle's own gradients against differences of its forward functions, all in f64: a gradient
/// that was derived wrongly twice, in the engine and in the oracle, would agree with itself.
namespace portolan::testing_support {
namespace {

Values random_values(Generator& generator, std::size_t count, double spread = 1.0) {
  Values result(count);
  for (double& value : result) value = spread * generator.symmetric();
  return result;
}

/// Compares `gradient` with central differences of sum(upstream * forward(input)).
void expect_gradient(const std::function<Values(const Values&)>& forward, const Values& input,
                     const Values& upstream, const Values& gradient) {
  constexpr double kStep = 1e-5;
  ASSERT_EQ(gradient.size(), input.size());
  for (std::size_t i = 0; i < input.size(); ++i) {
    const auto loss = [&](double shift) {
      Values moved = input;
      moved[i] += shift;
      const Values out = forward(moved);
      double sum = 0.0;
      for (std::size_t j = 0; j < out.size(); ++j) sum += upstream.at(j) * out[j];
      return sum;
    };
    const double difference = (loss(kStep) - loss(-kStep)) / (2.0 * kStep);
    ASSERT_NEAR(gradient[i], difference, 1e-7 * (1.0 + std::abs(difference))) << "element " << i;
  }
}

constexpr std::size_t kRows = 3;
constexpr std::size_t kColumns = 7;
constexpr double kEpsilon = 1e-3;  // large enough to matter

class GradientReference : public testing::Test {
 protected:
  Generator generator_{11};
  Values x_ = random_values(generator_, kRows* kColumns, 2.0);
  Values weight_ = random_values(generator_, kColumns);
  Values bias_ = random_values(generator_, kColumns);
  Values upstream_ = random_values(generator_, kRows* kColumns);
};

TEST_F(GradientReference, RmsNorm) {
  const auto gradients = reference::rms_norm_backward(x_, weight_, kEpsilon, upstream_);
  expect_gradient([&](const Values& x) { return reference::rms_norm(x, weight_, kEpsilon, kRows); },
                  x_, upstream_, gradients.x.values);
  expect_gradient(
      [&](const Values& weight) { return reference::rms_norm(x_, weight, kEpsilon, kRows); },
      weight_, upstream_, gradients.weight.values);
}

TEST_F(GradientReference, LayerNorm) {
  const auto forward = [&](const Values& x, const Values& weight, const Values& bias) {
    return reference::layer_norm(x, weight, bias, kEpsilon).values;
  };
  const auto gradients = reference::layer_norm_backward(x_, weight_, kEpsilon, upstream_);
  expect_gradient([&](const Values& x) { return forward(x, weight_, bias_); }, x_, upstream_,
                  gradients.x.values);
  expect_gradient([&](const Values& weight) { return forward(x_, weight, bias_); }, weight_,
                  upstream_, gradients.weight.values);
  expect_gradient([&](const Values& bias) { return forward(x_, weight_, bias); }, bias_, upstream_,
                  gradients.bias.values);
}

TEST_F(GradientReference, Swiglu) {
  const Values up = random_values(generator_, x_.size());
  const auto gradients = reference::swiglu_backward(x_, up, upstream_);
  expect_gradient([&](const Values& gate) { return reference::swiglu(gate, up); }, x_, upstream_,
                  gradients.gate.values);
  expect_gradient([&](const Values& values) { return reference::swiglu(x_, values); }, up,
                  upstream_, gradients.up.values);
}

TEST_F(GradientReference, Gelu) {
  for (const reference::Gelu kind : {reference::Gelu::erf, reference::Gelu::tanh}) {
    expect_gradient([&](const Values& x) { return reference::gelu(x, kind); }, x_, upstream_,
                    reference::gelu_backward(x_, upstream_, kind).values);
  }
}

TEST_F(GradientReference, Rotary) {
  constexpr std::int64_t kHeads = 2;
  constexpr std::int64_t kHeadDim = 4;
  const std::vector<std::int32_t> positions = {1, 0, 2};
  const Values x = random_values(generator_, positions.size() * kHeads * kHeadDim);
  const Values upstream = random_values(generator_, x.size());
  Values cosines;
  Values sines;
  for (const double angle : {0.3, -1.0, 2.0, 0.1, 1.4, 0.7}) {
    cosines.push_back(std::cos(angle));
    sines.push_back(std::sin(angle));
  }
  Values negative = sines;
  for (double& sine : negative) sine = -sine;
  const auto rotate = [&](const Values& values, const Values& turn) {
    return reference::rotary_embedding(values, positions, cosines, turn, kHeads, kHeadDim).values;
  };
  expect_gradient([&](const Values& values) { return rotate(values, sines); }, x, upstream,
                  rotate(upstream, negative));
}

TEST_F(GradientReference, Softmax) {
  const auto out = reference::softmax(x_, kColumns).out;
  expect_gradient([&](const Values& x) { return reference::softmax(x, kColumns).out; }, x_,
                  upstream_, reference::softmax_backward(out, upstream_, kColumns).values);
}

/// The loss put together from what two holders of the columns know.
TEST_F(GradientReference, CrossEntropy) {
  const std::vector<std::int32_t> labels = {5, -100, 1};
  constexpr std::int64_t kFirst = 3;  // columns of the first holder
  const auto columns = [&](const Values& x, std::size_t begin, std::size_t end) {
    Values result;
    for (std::size_t row = 0; row < kRows; ++row) {
      for (std::size_t c = begin; c < end; ++c) result.push_back(x[row * kColumns + c]);
    }
    return result;
  };
  const auto part = [&](const Values& x, bool second) {
    const Values own = second ? columns(x, kFirst, kColumns) : columns(x, 0, kFirst);
    return reference::cross_entropy_rows(own, labels, second ? kColumns - kFirst : kFirst,
                                         second ? kFirst : 0, -100);
  };
  const auto log_sum_exps = [&](const Values& x) {
    const auto left = part(x, false);
    const auto right = part(x, true);
    Values result;
    for (std::size_t row = 0; row < kRows; ++row) {
      result.push_back(std::log(left.sum[row] * std::exp(left.maximum[row]) +
                                right.sum[row] * std::exp(right.maximum[row])));
    }
    return result;
  };
  const auto loss = [&](const Values& x) {
    const Values log_sum_exp = log_sum_exps(x);
    double sum = 0.0;
    for (std::size_t row = 0; row < kRows; ++row) {
      if (labels[row] == -100) continue;
      sum += log_sum_exp[row] - part(x, false).target[row] - part(x, true).target[row];
    }
    return Values{sum / 2.0};
  };
  const Values log_sum_exp = log_sum_exps(x_);
  const Values left = reference::cross_entropy_backward(columns(x_, 0, kFirst), labels, kFirst, 0,
                                                        -100, log_sum_exp, 0.5)
                          .values;
  const Values right =
      reference::cross_entropy_backward(columns(x_, kFirst, kColumns), labels, kColumns - kFirst,
                                        kFirst, -100, log_sum_exp, 0.5)
          .values;
  Values gradient;
  for (std::size_t row = 0; row < kRows; ++row) {
    for (std::size_t c = 0; c < kColumns; ++c) {
      const bool first = c < kFirst;
      gradient.push_back(first ? left[row * kFirst + c]
                               : right[row * (kColumns - kFirst) + c - kFirst]);
    }
  }
  expect_gradient(loss, x_, {1.0}, gradient);
}

TEST_F(GradientReference, EmbeddingAndColumnSums) {
  const std::vector<std::int32_t> ids = {4, 2, 4};
  constexpr std::int64_t kTableRows = 3;
  constexpr std::int64_t kFirstRow = 2;
  const Values table = random_values(generator_, kTableRows * kColumns);
  const Values zeros(table.size(), 0.0);
  expect_gradient(
      [&](const Values& values) {
        return reference::embedding(ids, values, kTableRows, kFirstRow);
      },
      table, upstream_,
      reference::embedding_backward(ids, upstream_, kFirstRow, zeros, kColumns).values);
  expect_gradient(
      [&](const Values& bias) {
        Values out = x_;
        for (std::size_t i = 0; i < out.size(); ++i) out[i] += bias[i % kColumns];
        return out;
      },
      bias_, upstream_, reference::column_sums(upstream_, Values(kColumns, 0.0)).values);
}

}  // namespace
}  // namespace portolan::testing_support
