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

struct Token {
  std::int64_t position = 0;
  std::int64_t sequence = 0;
};

std::vector<Token> tokens_of(const std::vector<TokenRun>& runs) {
  std::vector<Token> tokens;
  for (const TokenRun& run : runs) {
    for (std::int64_t i = 0; i < run.length; ++i) {
      tokens.push_back({run.position + i, run.sequence});
    }
  }
  return tokens;
}

struct Tokens {
  std::vector<Token> queries;
  std::vector<Token> keys;

  explicit Tokens(const AttentionProblem& problem) {
    const AttentionMask& mask = problem.mask;
    keys = tokens_of(mask.key_runs.empty() ? std::vector<TokenRun>{{0, problem.k.dim(1)}}
                                           : mask.key_runs);
    std::int64_t end = 0;
    for (const Token& key : keys) end = std::max(end, key.position + 1);
    const std::int64_t count = problem.q.dim(1);
    queries = tokens_of(mask.query_runs.empty() ? std::vector<TokenRun>{{end - count, count}}
                                                : mask.query_runs);
  }
};

std::vector<double> weight_factors(const AttentionProblem& problem) {
  const AttentionDropout& dropout = problem.dropout;
  if (dropout.probability == 0.0F) return {};
  const Tokens tokens(problem);
  std::vector<double> factors;
  for (std::int64_t b = 0; b < problem.q.dim(0); ++b) {
    for (std::int64_t h = 0; h < problem.q.dim(2); ++h) {
      for (const Token& query : tokens.queries) {
        for (const Token& key : tokens.keys) {
          const auto words = dropout_words(dropout.key, dropout.first_entry + b + query.sequence,
                                           dropout.first_head + h, query.position, key.position);
          const bool dropped = words[static_cast<std::size_t>(key.position % 4)] <
                               dropout_threshold(dropout.probability);
          factors.push_back(dropped ? 0.0 : 1.0 / (1.0 - double{dropout.probability}));
        }
      }
    }
  }
  return factors;
}

void fill_random(const Tensor& tensor, std::uint64_t seed) {
  std::mt19937_64 generator(seed);
  std::vector<double> values(static_cast<std::size_t>(tensor.elements()));
  for (double& value : values) value = static_cast<double>(generator() >> 11) * 0x1p-52 - 1.0;
  set_values(tensor, values);
}

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
  std::string text = fmt::format("{} grad_out {} dropout {} accumulate {} ranges {} blocks {}",
                                 base.to_string(), name_of(grad_out_dtype), dropout.probability,
                                 accumulate, base.mask.key_ranges.size(),
                                 base.mask.blocks ? base.mask.blocks->columns.size() : 0);
  for (const TokenRun& run : base.mask.query_runs) text += fmt::format(" s{}", run.sequence);
  return text;
}

std::vector<char> seen_scores(const AttentionProblem& problem) {
  const AttentionMask& mask = problem.mask;
  const Tokens tokens(problem);
  std::vector<char> seen;
  for (std::int64_t b = 0; b < problem.q.dim(0); ++b) {
    for (std::int64_t h = 0; h < problem.q.dim(2); ++h) {
      for (std::int64_t i = 0; i < std::ssize(tokens.queries); ++i) {
        for (std::int64_t j = 0; j < std::ssize(tokens.keys); ++j) {
          const Token& query = tokens.queries[static_cast<std::size_t>(i)];
          const Token& key = tokens.keys[static_cast<std::size_t>(j)];
          bool sees = query.sequence == key.sequence;
          if (mask.causal || mask.window > 0) sees = sees && key.position <= query.position;
          if (mask.window > 0) sees = sees && query.position - key.position < mask.window;
          if (!mask.key_ranges.empty()) {
            const KeyRange& range = mask.key_ranges[static_cast<std::size_t>(b)];
            sees = sees && j >= range.begin && j < range.end;
          }
          if (mask.blocks) {
            sees = sees && mask.blocks->contains(h, i / mask.blocks->block_queries,
                                                 j / mask.blocks->block_keys);
          }
          seen.push_back(sees ? 1 : 0);
        }
      }
    }
  }
  return seen;
}

GradientSetup make_gradient_setup(const GradientCase& test_case) {
  const AttentionCase& c = test_case.base;
  const Device device{DeviceKind::cpu, 0};
  GradientSetup setup;
  setup.forward = make_setup(c, device);
  AttentionProblem& problem = setup.forward.problem;
  problem.dropout = test_case.dropout;

  reference::DenseAttentionInput& input = setup.reference;
  const reference::AttentionInput& operands = setup.forward.reference;
  input = {.batch = c.batch,
           .query_tokens = c.query_tokens,
           .key_tokens = c.key_tokens,
           .heads = c.heads,
           .key_heads = c.key_heads,
           .head_dim = c.head_dim,
           .scale = problem.scale,
           .seen = seen_scores(problem),
           .weight_factor = weight_factors(problem),
           .q = operands.q,
           .k = operands.k,
           .v = operands.v,
           .grad_out = {}};
  const auto like = [&](const Tensor& tensor, DType dtype) {
    constexpr std::int64_t kGap = 5;  // elements that are nobody's behind each token
    const Shape& s = tensor.shape();
    return Tensor::empty({s[0], s[1], s[2] * s[3] + kGap}, dtype, device)
        .slice(2, 0, s[2] * s[3])
        .split_last(s[2]);
  };
  AttentionGradients& gradients = setup.gradients;
  gradients.grad_out = like(problem.q, test_case.grad_out_dtype);
  fill_random(gradients.grad_out, c.seed + 1000);
  input.grad_out = values_of(gradients.grad_out);
  setup.expected = reference::dense_attention(input);
  gradients.log_sum_exp = Tensor::empty({c.batch, c.heads, c.query_tokens}, DType::f32, device);
  gradients.delta = Tensor::empty({c.batch, c.heads, c.query_tokens}, DType::f32, device);
  set_values(gradients.log_sum_exp, setup.expected.log_sum_exp);
  set_values(gradients.delta, setup.expected.delta);
  gradients.dq = like(problem.q, c.out_dtype);
  gradients.dk = like(problem.k, c.out_dtype);
  gradients.dv = like(problem.k, c.out_dtype);
  for (const Tensor* gradient : {&gradients.dq, &gradients.dk, &gradients.dv}) {
    set_values(*gradient,
               std::vector<double>(static_cast<std::size_t>(gradient->elements()), kBefore));
  }
  gradients.accumulate = test_case.accumulate;
  return setup;
}

void expect_forward(const GradientCase& test_case, const GradientSetup& setup) {
  AttentionCase c = test_case.base;
  // Weights that are kept grow, and add up to anything around 1.
  const double factor = test_case.dropout.probability > 0.0F
                            ? 2.0 / (1.0 - double{test_case.dropout.probability})
                            : 1.0;
  AttentionSetup scaled = setup.forward;
  scaled.largest_value *= factor;
  reference::AttentionOutput expected;
  expected.out = setup.expected.out;
  expected.log_sum_exp = setup.expected.log_sum_exp;
  expect_matches(c, scaled, expected);
}

void expect_gradients(const GradientCase& test_case, const GradientSetup& setup) {
  // f32: of scores and their exponentials. bf16: weights, slopes and grad_out are narrowed.
  const double relative = test_case.base.dtype == DType::bf16 ? 0x1p-7 : 3e-6;
  const double of_result = test_case.base.out_dtype == DType::bf16  ? 0x1p-8
                           : test_case.base.out_dtype == DType::f16 ? 0x1p-11
                                                                    : 0x1p-22;
  const double before = test_case.accumulate ? kBefore : 0.0;
  const reference::DenseAttentionResult& expected = setup.expected;
  expect_near(setup.gradients.dq, expected.dq, before, expected.dq_magnitude, relative, of_result,
              "dq");
  expect_near(setup.gradients.dk, expected.dk, before, expected.dk_magnitude, relative, of_result,
              "dk");
  expect_near(setup.gradients.dv, expected.dv, before, expected.dv_magnitude, relative, of_result,
              "dv");
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
  constexpr DType kDTypes[] = {DType::f32, DType::bf16, DType::f16};
  base.dtype = kDTypes[below(3)];
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
    c.dropout = {.probability = 0.1F + 0.1F * static_cast<float>(below(8)),
                 .key = {generator(), generator()},
                 .first_entry = below(5),
                 .first_head = below(7)};
  }
  return c;
}

}  // namespace portolan::testing_support
#endif
