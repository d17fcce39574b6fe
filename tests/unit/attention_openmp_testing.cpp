// SPDX-License-Identifier: Apache-2.0
#if defined(PORTOLAN_HAS_OPENMP)
#include "tests/unit/attention_openmp_testing.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <omp.h>

#include <algorithm>
#include <cmath>

namespace portolan::testing_support {
namespace {

/// What a gradient holds before, which is added to or must be overwritten.
constexpr double kBefore = 0.75;

/// `relative` is to the magnitudes of what was added up, `of_result` to the result.
void expect_near(const Tensor& found_tensor, const std::vector<double>& expected, double before,
                 const std::vector<double>& magnitudes, double relative, double of_result,
                 const char* name) {
  const std::vector<double> found = values_of(found_tensor);
  int wrong = 0;
  for (std::size_t i = 0; i < found.size() && wrong < 3; ++i) {
    const double value = expected[i] + before;
    const double tolerance = relative * magnitudes[i] + of_result * std::abs(value) + 1e-7;
    if (std::abs(found[i] - value) <= tolerance) continue;
    ++wrong;
    ADD_FAILURE() << name << " element " << i << ": " << found[i] << " should be " << value
                  << " within " << tolerance;
  }
}

}  // namespace

std::string GradientCase::to_string() const {
  return fmt::format("{} grad_out {} accumulate {}", base.to_string(), name_of(grad_out_dtype),
                     accumulate);
}

GradientSetup make_gradient_setup(const GradientCase& test_case) {
  const Device device{DeviceKind::cpu, 0};
  GradientSetup setup;
  setup.tensors = make_setup(test_case.base, device);
  AttentionGradients& gradients = setup.tensors.gradients;
  if (gradients.grad_out.dtype() != test_case.grad_out_dtype) {
    gradients.grad_out =
        Tensor::empty(gradients.grad_out.shape(), test_case.grad_out_dtype, device);
    set_values(gradients.grad_out, setup.tensors.grad_out);
    setup.tensors.grad_out = values_of(gradients.grad_out);
  }
  setup.output = reference::attention(setup.tensors.reference);
  setup.gradient = reference::attention_gradient(setup.tensors.reference, setup.tensors.grad_out);
  set_statistics(setup.tensors, setup.output, setup.gradient);
  gradients.accumulate = test_case.accumulate;
  for (const Tensor* gradient : {&gradients.dq, &gradients.dk, &gradients.dv}) {
    set_values(*gradient,
               std::vector<double>(static_cast<std::size_t>(gradient->elements()), kBefore));
  }
  return setup;
}

void expect_forward(const GradientCase& test_case, const GradientSetup& setup) {
  AttentionSetup scaled = setup.tensors;
  // Weights that are kept grow, and add up to anything around 1.
  const float dropped = test_case.base.dropout.probability;
  if (dropped > 0.0F) scaled.largest_value *= 2.0 / (1.0 - double{dropped});
  expect_matches(test_case.base, scaled, setup.output);
}

void expect_gradients(const GradientCase& test_case, const GradientSetup& setup) {
  // f32: of scores and their exponentials. bf16: weights, slopes and grad_out are narrowed.
  const double relative = test_case.base.dtype == DType::bf16 ? 0x1p-7 : 3e-6;
  const double of_result = test_case.base.out_dtype == DType::bf16  ? 0x1p-8
                           : test_case.base.out_dtype == DType::f16 ? 0x1p-11
                                                                    : 0x1p-22;
  const double before = test_case.accumulate ? kBefore : 0.0;
  const reference::AttentionGradient& expected = setup.gradient;
  const AttentionGradients& found = setup.tensors.gradients;
  expect_near(found.dq, expected.dq, before, expected.dq_magnitude, relative, of_result, "dq");
  expect_near(found.dk, expected.dk, before, expected.dk_magnitude, relative, of_result, "dk");
  expect_near(found.dv, expected.dv, before, expected.dv_magnitude, relative, of_result, "dv");
}

OpenmpThreads::OpenmpThreads(int threads) : before_(omp_get_max_threads()) {
  omp_set_num_threads(threads);
}
OpenmpThreads::~OpenmpThreads() { omp_set_num_threads(before_); }

GradientCase random_case(std::mt19937_64& generator, std::int64_t largest_length) {
  const auto below = [&](std::int64_t bound) {
    return static_cast<std::int64_t>(generator() % static_cast<std::uint64_t>(bound));
  };
  GradientCase c;
  AttentionCase& base = c.base;
  base.seed = generator() % 1000;
  base.batch = 1 + below(3);
  base.key_heads = 1 + below(3);
  base.heads = base.key_heads * (1 + below(4));
  base.head_dim = below(3) == 0 ? 16 * (1 + below(4)) : 1 + below(100);
  base.query_tokens = 1 + below(largest_length);
  base.key_tokens = below(2) == 0 ? base.query_tokens : 1 + below(largest_length);
  base.layout = below(2) == 0 ? AttentionLayout::dense : AttentionLayout::padded;
  base.dtype = computed_dtypes()[static_cast<std::size_t>(below(3))];
  base.out_dtype = below(2) == 0 ? base.dtype : DType::f32;
  c.grad_out_dtype = below(2) == 0 ? base.dtype : DType::f32;
  c.accumulate = base.out_dtype == DType::f32 && below(2) == 0;
  AttentionMask& mask = base.mask;
  mask.causal = below(2) == 0;
  if (below(3) == 0) mask.window = 1 + below(largest_length);
  if (below(2) == 0) {  // runs that need not have anything to do with each other
    const bool packed = below(2) == 0;
    const auto runs = [&](std::int64_t tokens) {
      std::vector<TokenRun> result;
      std::int64_t position = below(20);
      while (tokens > 0) {
        const std::int64_t length = std::min(tokens, below(largest_length / 2 + 1));
        const std::int64_t sequence = packed ? below(3) : 0;
        result.push_back({packed ? below(30) : position, length, sequence});
        position += length + below(10);
        tokens -= length;
      }
      return result;
    };
    mask.query_runs = runs(base.query_tokens);
    mask.key_runs = runs(base.key_tokens);
  }
  if (below(3) == 0) {
    for (std::int64_t b = 0; b < base.batch; ++b) {
      const std::int64_t begin = below(base.key_tokens + 1);
      mask.key_ranges.push_back({begin, begin + below(base.key_tokens - begin + 1)});
    }
  }
  if (below(3) == 0) {
    const std::int64_t block_queries = 1 + below(90);
    const std::int64_t block_keys = 1 + below(90);
    const std::int64_t rows = (base.query_tokens + block_queries - 1) / block_queries;
    const std::int64_t columns = (base.key_tokens + block_keys - 1) / block_keys;
    std::vector<std::uint8_t> flags(static_cast<std::size_t>(base.heads * rows * columns));
    for (std::uint8_t& flag : flags) flag = below(3) == 0 ? 1 : 0;
    mask.blocks = std::make_shared<const BlockMap>(
        block_map_from_flags(base.heads, rows, columns, block_queries, block_keys, flags.data()));
  }
  if (below(3) == 0) {
    base.dropout = {.probability = 0.1F + 0.1F * static_cast<float>(below(8)),
                    .key = {generator(), generator()},
                    .first_entry = below(5),
                    .first_head = below(7)};
  }
  return c;
}

}  // namespace portolan::testing_support
#endif
