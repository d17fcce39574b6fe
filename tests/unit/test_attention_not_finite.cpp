// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "attention/attention.hpp"
#include "core/backend.hpp"
#include "tests/unit/attention_testing.hpp"

/// A number that went wrong has to show in every result that it enters and in no other: attention
/// that turns it into a weight of 0 hides a model's overflow.
namespace portolan {
namespace {

using testing_support::AttentionCase;
using testing_support::AttentionSetup;
using testing_support::computed_dtypes;
using testing_support::make_setup;
using testing_support::values_of;

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

enum class Operand { q, k };

/// The token whose row has one NaN, in every head.
struct Poison {
  Operand operand = Operand::q;
  std::int64_t token = 0;

  void apply(const AttentionProblem& problem) const {
    const Tensor& tensor = operand == Operand::q ? problem.q : problem.k;
    const Tensor element = tensor.slice(1, token, token + 1).slice(3, 2, 3);
    testing_support::set_values(
        element, std::vector<double>(static_cast<std::size_t>(element.elements()), kNaN));
  }
  /// Whether it enters the row of a query.
  [[nodiscard]] bool reaches(const AttentionCase& c, std::int64_t query) const {
    if (operand == Operand::q) return query == token;
    const std::int64_t distance = query + c.key_tokens - c.query_tokens - token;
    return distance >= 0 && (c.mask.window == 0 || distance < c.mask.window);
  }
};

/// `heads_first`: [B, H, S, 1] instead of [B, S, H, D].
void expect_only_reached(const AttentionCase& c, const Poison& poison, const Tensor& found,
                         const Tensor& clean, bool heads_first) {
  const std::vector<double> values = values_of(found);
  const std::vector<double> before = values_of(clean);
  const std::int64_t inner = heads_first ? 1 : c.heads * c.head_dim;
  for (std::size_t i = 0; i < values.size(); ++i) {
    const std::int64_t query = static_cast<std::int64_t>(i) / inner % c.query_tokens;
    if (poison.reaches(c, query)) {
      ASSERT_TRUE(std::isnan(values[i])) << "query " << query << " has " << values[i];
    } else {
      ASSERT_EQ(values[i], before[i]) << "query " << query;
    }
  }
}

void check_forward(const AttentionCase& c, const Poison& poison) {
  SCOPED_TRACE(c.to_string() + (poison.operand == Operand::q ? ", query " : ", key ") +
               std::to_string(poison.token));
  int kernels = 0;
  for (const auto& kernel : attention_forward_kernels()) {
    const Device device{kernel->device(), 0};
    const AttentionSetup clean = make_setup(c, device);
    if (!kernel->unsupported_reason(clean.problem).empty()) continue;
    SCOPED_TRACE(std::string(name_of(device.kind)) + " " + std::string(name_of(kernel->method())));
    kernel->forward(clean.problem, clean.out, clean.log_sum_exp);
    const AttentionSetup setup = make_setup(c, device);
    poison.apply(setup.problem);
    kernel->forward(setup.problem, setup.out, setup.log_sum_exp);
    expect_only_reached(c, poison, setup.out, clean.out, false);
    expect_only_reached(c, poison, setup.log_sum_exp, clean.log_sum_exp, true);
    ++kernels;
  }
  EXPECT_GE(kernels, 3);  // standard, memory-efficient and flash on the serial device
}

TEST(AttentionNotFinite, NaNsOfQueriesAndKeysReachWhatTheyEnter) {
  for (const DType dtype : computed_dtypes()) {
    for (const std::int64_t window : {0, 40}) {
      AttentionCase c{.query_tokens = 150, .key_tokens = 170, .heads = 4, .key_heads = 2};
      c.head_dim = 64;
      c.dtype = c.out_dtype = dtype;
      c.mask.window = window;
      for (const std::int64_t token : {0, 69, 149}) check_forward(c, {Operand::q, token});
      for (const std::int64_t token : {0, 69, 169}) check_forward(c, {Operand::k, token});
    }
  }
}

/// Few queries and many keys: threads share the keys, and their parts are merged.
TEST(AttentionNotFinite, NaNsAreNotLostWhereSplitsMerge) {
  for (const DType dtype : computed_dtypes()) {
    for (const std::int64_t query_tokens : {1, 3}) {
      AttentionCase c{.query_tokens = query_tokens, .key_tokens = 5000, .heads = 2, .key_heads = 1};
      c.head_dim = 64;
      c.dtype = dtype;
      check_forward(c, {Operand::q, query_tokens - 1});
      for (const std::int64_t token : {3, 2600, 4999}) check_forward(c, {Operand::k, token});
    }
  }
}

TEST(AttentionNotFinite, NaNsOfQueriesReachTheirGradients) {
  for (const DType dtype : computed_dtypes()) {
    AttentionCase c{.query_tokens = 150, .key_tokens = 150, .heads = 4, .key_heads = 2};
    c.head_dim = 64;
    c.dtype = c.out_dtype = dtype;
    const AttentionSetup any = make_setup(c, {DeviceKind::serial, 0});
    const reference::AttentionOutput output = reference::attention(any.reference);
    const reference::AttentionGradient gradient =
        reference::attention_gradient(any.reference, any.grad_out);
    const Poison poison{Operand::q, 69};
    for (const auto& kernel : attention_backward_kernels()) {
      const Device device{kernel->device(), 0};
      const AttentionSetup clean = make_setup(c, device);
      if (!kernel->unsupported_reason(clean.problem).empty()) continue;
      SCOPED_TRACE(std::string(name_of(device.kind)) + " " +
                   std::string(name_of(kernel->method())));
      testing_support::set_statistics(clean, output, gradient);
      kernel->backward(clean.problem, clean.gradients);
      const AttentionSetup setup = make_setup(c, device);
      testing_support::set_statistics(setup, output, gradient);
      poison.apply(setup.problem);
      kernel->backward(setup.problem, setup.gradients);
      expect_only_reached(c, poison, setup.gradients.dq, clean.gradients.dq, false);
      // To the gradients of the keys that the query sees, too.
      const std::vector<double> dk = values_of(setup.gradients.dk);
      const std::int64_t row = c.key_heads * c.head_dim;
      for (std::int64_t i = 0; i < (poison.token + 1) * row; ++i) {
        ASSERT_TRUE(std::isnan(dk[static_cast<std::size_t>(i)])) << "key " << i / row;
      }
    }
  }
}

TEST(AttentionNotFinite, MergingKeepsNaNs) {
  constexpr std::int64_t kHeads = 2;
  constexpr std::int64_t kDim = 8;
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  for (const auto& backend : registered_backends()) {
    const Device device = backend->device();
    SCOPED_TRACE(name_of(device.kind));
    for (const auto& [mine, other] : {std::pair(kNaN, -kInfinity), std::pair(-kInfinity, kNaN),
                                      std::pair(kNaN, 1.0), std::pair(1.0, kNaN)}) {
      SCOPED_TRACE(std::to_string(mine) + " and " + std::to_string(other));
      // Of the heads only the first has met a NaN.
      const auto partial = [&](double log_sum_exp) {
        std::vector<double> rows(kHeads * kDim, 0.5);
        std::fill_n(rows.begin(), kDim, log_sum_exp == -kInfinity ? 0.0 : log_sum_exp);
        const std::pair result{Tensor::empty({1, 1, kHeads, kDim}, DType::f32, device),
                               Tensor::empty({1, kHeads, 1}, DType::f32, device)};
        testing_support::set_values(result.first, rows);
        testing_support::set_values(result.second, {log_sum_exp, 0.0});
        return result;
      };
      const auto [out, log_sum_exp] = partial(mine);
      const auto [block_out, block_log_sum_exp] = partial(other);
      attention_merge(block_out, block_log_sum_exp, out, log_sum_exp);
      const std::vector<double> rows = values_of(out);
      for (std::size_t i = 0; i < rows.size(); ++i) {
        EXPECT_EQ(std::isnan(rows[i]), i < kDim) << "element " << i;
      }
      const std::vector<double> sums = values_of(log_sum_exp);
      EXPECT_TRUE(std::isnan(sums[0])) << sums[0];
      EXPECT_NEAR(sums[1], std::log(2.0), 1e-6);
    }
  }
}

}  // namespace
}  // namespace portolan
