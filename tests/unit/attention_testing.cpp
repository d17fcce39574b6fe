// SPDX-License-Identifier: Apache-2.0
#include "tests/unit/attention_testing.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "core/backend.hpp"

namespace portolan::testing_support {
namespace {

void for_each_element(const Tensor& tensor, const auto& function) {
  const Shape& shape = tensor.shape();
  for (std::int64_t index = 0; index < tensor.elements(); ++index) {
    std::int64_t rest = index;
    std::int64_t offset = 0;
    for (int dimension = shape.rank() - 1; dimension >= 0; --dimension) {
      offset += rest % shape[dimension] * tensor.strides()[dimension];
      rest /= shape[dimension];
    }
    function(index, offset);
  }
}

void set_element(const Tensor& tensor, std::int64_t offset, double value) {
  const auto narrow = static_cast<float>(value);
  switch (tensor.dtype()) {
    case DType::bf16:
      tensor.data<BFloat16>()[offset] = from_float<BFloat16>(narrow);
      return;
    case DType::f16:
      tensor.data<Float16>()[offset] = from_float<Float16>(narrow);
      return;
    default:
      tensor.data<float>()[offset] = narrow;
  }
}

void randomise(const Tensor& tensor, std::mt19937_64& generator, float spread) {
  for_each_element(tensor, [&](std::int64_t, std::int64_t offset) {
    const double unit = static_cast<double>(generator() >> 11) * 0x1p-52 - 1.0;
    set_element(tensor, offset, unit * spread);
  });
}

// [batch, tokens, heads, head_dim] with `gap` unused elements behind each token's heads.
Tensor make_operand(std::int64_t batch, std::int64_t tokens, std::int64_t heads,
                    std::int64_t head_dim, DType dtype, Device device, std::int64_t gap) {
  return Tensor::empty({batch, tokens, heads * head_dim + gap}, dtype, device)
      .slice(2, 0, heads * head_dim)
      .split_last(heads);
}

}  // namespace

std::string AttentionCase::to_string() const {
  std::string text =
      fmt::format("B{} Sq{} Sk{} H{}/{} D{} {} -> {} layout {} causal {} window {}", batch,
                  query_tokens, key_tokens, heads, key_heads, head_dim, name_of(dtype),
                  name_of(out_dtype), static_cast<int>(layout), mask.causal, mask.window);
  for (const TokenRun& run : mask.query_runs) {
    text += fmt::format(" q[{}+{}]", run.position, run.length);
  }
  for (const TokenRun& run : mask.key_runs) {
    text += fmt::format(" k[{}+{}]", run.position, run.length);
  }
  return text;
}

std::vector<std::int64_t> positions_of(const std::vector<TokenRun>& runs) {
  std::vector<std::int64_t> positions;
  for (const TokenRun& run : runs) {
    for (std::int64_t i = 0; i < run.length; ++i) positions.push_back(run.position + i);
  }
  return positions;
}

void set_values(const Tensor& tensor, const std::vector<double>& values) {
  for_each_element(tensor, [&](std::int64_t index, std::int64_t offset) {
    set_element(tensor, offset, values[index]);
  });
}

AttentionSetup make_setup(const AttentionCase& test_case, Device device) {
  const AttentionCase& c = test_case;
  AttentionSetup setup;
  const std::int64_t gap = c.layout == AttentionLayout::padded ? 7 : 0;
  if (c.layout == AttentionLayout::fused) {
    const std::int64_t q_width = c.heads * c.head_dim;
    const std::int64_t k_width = c.key_heads * c.head_dim;
    const Tensor all =
        Tensor::empty({c.batch, c.query_tokens, q_width + 2 * k_width}, c.dtype, device);
    setup.problem.q = all.slice(2, 0, q_width).split_last(c.heads);
    setup.problem.k = all.slice(2, q_width, q_width + k_width).split_last(c.key_heads);
    setup.problem.v =
        all.slice(2, q_width + k_width, q_width + 2 * k_width).split_last(c.key_heads);
  } else {
    setup.problem.q =
        make_operand(c.batch, c.query_tokens, c.heads, c.head_dim, c.dtype, device, gap);
    setup.problem.k =
        make_operand(c.batch, c.key_tokens, c.key_heads, c.head_dim, c.dtype, device, 2 * gap);
    setup.problem.v =
        make_operand(c.batch, c.key_tokens, c.key_heads, c.head_dim, c.dtype, device, gap);
  }
  setup.out = make_operand(c.batch, c.query_tokens, c.heads, c.head_dim, c.out_dtype, device, gap);
  setup.log_sum_exp = Tensor::empty({c.batch, c.heads, c.query_tokens}, DType::f32, device);
  setup.problem.mask = c.mask;
  setup.problem.scale = c.scale != 0.0F
                            ? c.scale
                            : static_cast<float>(1.0 / std::sqrt(static_cast<double>(c.head_dim)));

  std::mt19937_64 generator(c.seed);
  for (const Tensor* tensor : {&setup.problem.q, &setup.problem.k, &setup.problem.v}) {
    randomise(*tensor, generator, c.spread);
  }
  // What a kernel leaves unwritten must not pass for a result.
  set_values(setup.out, std::vector<double>(static_cast<std::size_t>(setup.out.elements()), 77.0));
  set_values(setup.log_sum_exp,
             std::vector<double>(static_cast<std::size_t>(setup.log_sum_exp.elements()), 77.0));

  reference::AttentionInput& input = setup.reference;
  input.batch = c.batch;
  input.query_tokens = c.query_tokens;
  input.key_tokens = c.key_tokens;
  input.heads = c.heads;
  input.key_heads = c.key_heads;
  input.head_dim = c.head_dim;
  input.scale = setup.problem.scale;
  input.causal = c.mask.causal;
  input.window = c.mask.window;
  input.key_positions = positions_of(
      c.mask.key_runs.empty() ? std::vector<TokenRun>{{0, c.key_tokens}} : c.mask.key_runs);
  std::int64_t end = 0;
  for (const std::int64_t position : input.key_positions) end = std::max(end, position + 1);
  input.query_positions = positions_of(
      c.mask.query_runs.empty() ? std::vector<TokenRun>{{end - c.query_tokens, c.query_tokens}}
                                : c.mask.query_runs);
  input.q = values_of(setup.problem.q);
  input.k = values_of(setup.problem.k);
  input.v = values_of(setup.problem.v);
  for (const double value : input.v) {
    setup.largest_value = std::max(setup.largest_value, std::abs(value));
  }
  return setup;
}

double out_tolerance(const AttentionCase& test_case, double largest_value) {
  double tolerance = 1e-5 * std::max(1.0, largest_value);
  if (test_case.dtype == DType::bf16) tolerance += 0x1p-9 * largest_value;
  if (test_case.out_dtype == DType::bf16) tolerance += 0x1p-9 * largest_value;
  if (test_case.out_dtype == DType::f16) tolerance += 0x1p-12 * largest_value;
  return tolerance;
}

void expect_matches(const AttentionCase& test_case, const AttentionSetup& setup,
                    const reference::AttentionOutput& expected) {
  const std::vector<double> out = values_of(setup.out);
  const double tolerance = out_tolerance(test_case, setup.largest_value);
  int wrong = 0;
  for (std::size_t i = 0; i < out.size() && wrong < 3; ++i) {
    if (std::abs(out[i] - expected.out[i]) <= tolerance) continue;
    ++wrong;
    ADD_FAILURE() << "out element " << i << ": " << out[i] << " should be " << expected.out[i]
                  << " within " << tolerance;
  }
  const std::vector<double> log_sum_exp = values_of(setup.log_sum_exp);
  for (std::size_t i = 0; i < log_sum_exp.size() && wrong < 6; ++i) {
    const double difference = std::abs(log_sum_exp[i] - expected.log_sum_exp[i]);
    if (log_sum_exp[i] == expected.log_sum_exp[i] || difference <= 1e-5) continue;
    ++wrong;
    ADD_FAILURE() << "log_sum_exp element " << i << ": " << log_sum_exp[i] << " should be "
                  << expected.log_sum_exp[i];
  }
}

void check_on_all_kernels(const AttentionCase& test_case) {
  SCOPED_TRACE(test_case.to_string());
  for (const auto& backend : registered_backends()) {
    if (!is_host(backend->device())) continue;
    const AttentionSetup setup = make_setup(test_case, backend->device());
    const reference::AttentionOutput expected = reference::attention(setup.reference);
    for (const AttentionMethod method : {AttentionMethod::standard, AttentionMethod::flash}) {
      const AttentionForwardKernel& chosen = select_attention_forward(setup.problem, method);
      EXPECT_EQ(chosen.method(), method);
    }
    for (const auto& kernel : attention_forward_kernels()) {
      if (kernel->device() != backend->device().kind ||
          !kernel->unsupported_reason(setup.problem).empty()) {
        continue;
      }
      SCOPED_TRACE(fmt::format("{} on {}", name_of(kernel->method()), name_of(kernel->device())));
      const AttentionSetup fresh = make_setup(test_case, backend->device());
      kernel->forward(fresh.problem, fresh.out, fresh.log_sum_exp);
      expect_matches(test_case, fresh, expected);
    }
  }
}

}  // namespace portolan::testing_support
