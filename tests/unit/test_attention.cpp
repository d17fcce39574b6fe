// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cmath>
#include <initializer_list>
#include <limits>
#include <memory>
#include <vector>

#include "attention/attention.hpp"
#include "core/error.hpp"
#include "tests/unit/attention_testing.hpp"

namespace portolan {
namespace {

using testing_support::AttentionCase;
using testing_support::AttentionLayout;
using testing_support::check_on_all_kernels;
using testing_support::computed_dtypes;

TEST(Attention, HeadDims) {
  for (const DType dtype : computed_dtypes()) {
    for (const std::int64_t head_dim : {1, 2, 5, 16, 17, 40, 64, 80, 128, 129, 256}) {
      AttentionCase c{.query_tokens = 70, .key_tokens = 70, .heads = 2, .key_heads = 1};
      c.head_dim = head_dim;
      c.dtype = c.out_dtype = dtype;
      check_on_all_kernels(c);
    }
  }
}

TEST(Attention, LengthsCausalAndFull) {
  constexpr std::int64_t kLengths[][2] = {{1, 1},    {1, 77},    {7, 7},     {63, 63},  {64, 64},
                                          {65, 65},  {17, 90},   {90, 17},   {3, 200},  {128, 128},
                                          {1, 1000}, {130, 130}, {191, 260}, {257, 257}};
  for (const DType dtype : computed_dtypes()) {
    for (const auto& [query_tokens, key_tokens] : kLengths) {
      for (const bool causal : {true, false}) {
        AttentionCase c{.query_tokens = query_tokens,
                        .key_tokens = key_tokens,
                        .heads = 2,
                        .key_heads = 2,
                        .head_dim = 32};
        c.mask.causal = causal;
        c.dtype = dtype;
        check_on_all_kernels(c);
      }
    }
  }
}

TEST(Attention, GroupedHeads) {
  constexpr std::int64_t kHeads[][2] = {{1, 1}, {4, 4}, {6, 2}, {5, 1}, {12, 3}, {8, 1}};
  for (const DType dtype : computed_dtypes()) {
    for (const auto& [heads, key_heads] : kHeads) {
      for (const std::int64_t tokens : {1, 33, 100}) {
        AttentionCase c{.batch = 2,
                        .query_tokens = tokens,
                        .key_tokens = 100,
                        .heads = heads,
                        .key_heads = key_heads,
                        .head_dim = 24};
        c.dtype = c.out_dtype = dtype;
        check_on_all_kernels(c);
      }
    }
  }
}

TEST(Attention, Windows) {
  for (const DType dtype : computed_dtypes()) {
    for (const std::int64_t window : {1, 2, 7, 16, 64, 65, 100, 500}) {
      for (const bool causal : {true, false}) {  // a window implies causality
        AttentionCase c{.query_tokens = 150, .key_tokens = 150, .heads = 4, .key_heads = 2};
        c.mask.window = window;
        c.mask.causal = causal;
        c.dtype = dtype;
        check_on_all_kernels(c);
      }
    }
  }
  AttentionCase chunk{.query_tokens = 20, .key_tokens = 170, .heads = 2, .key_heads = 1};
  chunk.mask.window = 70;
  check_on_all_kernels(chunk);
}

TEST(Attention, TwoRunsAsInZigzagShards) {
  // Four ranks, eight chunks of 24 tokens: rank r holds chunks r and 7 - r.
  const auto runs = [](std::int64_t rank) {
    return std::vector<TokenRun>{{24 * rank, 24}, {24 * (7 - rank), 24}};
  };
  for (const DType dtype : computed_dtypes()) {
    for (std::int64_t query_rank = 0; query_rank < 4; ++query_rank) {
      for (std::int64_t key_rank = 0; key_rank < 4; ++key_rank) {
        AttentionCase c{.query_tokens = 48, .key_tokens = 48, .heads = 2, .key_heads = 1};
        c.mask.query_runs = runs(query_rank);
        c.mask.key_runs = runs(key_rank);
        c.dtype = dtype;
        c.mask.window = query_rank == 2 ? 50 : 0;
        check_on_all_kernels(c);
      }
    }
  }
}

TEST(Attention, LongRunsOfUnevenLength) {
  AttentionCase c{.query_tokens = 230, .key_tokens = 301, .heads = 2, .key_heads = 2};
  c.mask.query_runs = {{5, 100}, {400, 130}};
  c.mask.key_runs = {{0, 99}, {99, 1}, {250, 201}};
  check_on_all_kernels(c);
  c.mask.window = 120;
  check_on_all_kernels(c);
}

TEST(Attention, EmptyRuns) {
  AttentionCase c{.query_tokens = 40, .key_tokens = 30, .heads = 2, .key_heads = 1};
  c.mask.query_runs = {{0, 0}, {10, 40}, {90, 0}};
  c.mask.key_runs = {{0, 30}, {50, 0}};
  check_on_all_kernels(c);
}

/// Dropout draws for four neighbouring positions at once: groups are the same below 0 as above.
TEST(Attention, NegativePositions) {
  for (const DType dtype : computed_dtypes()) {
    for (const float probability : {0.0F, 0.5F}) {
      AttentionCase c{.query_tokens = 9, .key_tokens = 11, .heads = 2, .key_heads = 1};
      c.mask.query_runs = {{-6, 9}};
      c.mask.key_runs = {{-6, 11}};
      c.dtype = dtype;
      c.dropout.probability = probability;
      check_on_all_kernels(c);
      c.mask.causal = false;
      check_on_all_kernels(c);
      c.mask.window = 5;
      check_on_all_kernels(c);
    }
  }
}

TEST(Attention, RowsThatSeeNothing) {
  AttentionCase longer{.query_tokens = 80, .key_tokens = 9, .heads = 2, .key_heads = 1};
  check_on_all_kernels(longer);  // aligned bottom-right: the first 71 queries precede all keys
  AttentionCase future{.query_tokens = 20, .key_tokens = 20};
  future.mask.query_runs = {{0, 20}};
  future.mask.key_runs = {{100, 20}};
  check_on_all_kernels(future);
  AttentionCase no_keys{.batch = 2, .query_tokens = 3, .key_tokens = 0, .heads = 2, .key_heads = 1};
  check_on_all_kernels(no_keys);
}

TEST(Attention, StridedOperands) {
  for (const DType dtype : computed_dtypes()) {
    for (const std::int64_t head_dim : {5, 16, 64, 80}) {
      for (const AttentionLayout layout : {AttentionLayout::fused, AttentionLayout::padded}) {
        AttentionCase c{.batch = 2,
                        .query_tokens = 75,
                        .key_tokens = 75,
                        .heads = 4,
                        .key_heads = 2,
                        .head_dim = head_dim};
        c.dtype = c.out_dtype = dtype;
        c.layout = layout;
        check_on_all_kernels(c);
      }
    }
  }
}

TEST(Attention, ScalesOfAnySign) {
  for (const DType dtype : computed_dtypes()) {
    for (const float scale : {-0.7F, 1e-6F, 3.0F}) {
      AttentionCase c{.query_tokens = 66, .key_tokens = 66, .heads = 2, .key_heads = 2};
      c.scale = scale;
      c.dtype = dtype;
      check_on_all_kernels(c);
    }
  }
}

TEST(Attention, EqualWeightsWithScaleZero) {
  AttentionCase c{.query_tokens = 40, .key_tokens = 40};
  for (const auto& kernel : attention_forward_kernels()) {
    testing_support::AttentionSetup setup = testing_support::make_setup(c, {kernel->device(), 0});
    setup.problem.scale = 0.0F;
    setup.reference.scale = 0.0;
    if (!kernel->unsupported_reason(setup.problem).empty()) continue;
    kernel->forward(setup.problem, setup.out, setup.log_sum_exp);
    testing_support::expect_matches(c, setup, reference::attention(setup.reference));
  }
}

TEST(Attention, LargeScoresDoNotOverflow) {
  // Scores reach +-500: far beyond exp's range, close to one-hot weights.
  for (const DType dtype : computed_dtypes()) {
    for (const auto& kernel : attention_forward_kernels()) {
      AttentionCase c{
          .query_tokens = 400, .key_tokens = 400, .heads = 2, .key_heads = 2, .head_dim = 64};
      c.dtype = dtype;
      c.scale = 4.0F;
      c.spread = 4.0F;
      const testing_support::AttentionSetup setup =
          testing_support::make_setup(c, {kernel->device(), 0});
      if (!kernel->unsupported_reason(setup.problem).empty()) continue;
      kernel->forward(setup.problem, setup.out, setup.log_sum_exp);
      const reference::AttentionOutput expected = reference::attention(setup.reference);
      const std::vector<double> out = testing_support::values_of(setup.out);
      // f32 rounding of a score of 500 moves it by 3e-5, and neighbouring weights with it.
      const double tolerance =
          testing_support::out_tolerance(c, setup.largest_value, setup.out.device()) + 2e-3;
      for (std::size_t i = 0; i < out.size(); ++i) {
        ASSERT_NEAR(out[i], expected.out[i], tolerance) << name_of(dtype) << " element " << i;
      }
    }
  }
}

TEST(Attention, RejectsWhatCannotMeanAnything) {
  const Device device{DeviceKind::serial, 0};
  const auto tensor = [&](const Shape& shape, DType dtype = DType::f32) {
    return Tensor::empty(shape, dtype, device);
  };
  const auto problem = [&] {
    return AttentionProblem{.q = tensor({1, 4, 4, 8}),
                            .k = tensor({1, 4, 2, 8}),
                            .v = tensor({1, 4, 2, 8}),
                            .mask = {},
                            .scale = 1.0F};
  };
  const Tensor out = tensor({1, 4, 4, 8});
  EXPECT_NO_THROW(attention_forward(problem(), out));

  AttentionProblem heads = problem();
  heads.k = heads.v = tensor({1, 4, 3, 8});
  EXPECT_THROW(attention_forward(heads, out), UsageError);
  AttentionProblem dims = problem();
  dims.k = tensor({1, 4, 2, 4});
  EXPECT_THROW(attention_forward(dims, out), UsageError);
  AttentionProblem dtypes = problem();
  dtypes.v = tensor({1, 4, 2, 8}, DType::bf16);
  EXPECT_THROW(attention_forward(dtypes, out), UsageError);
  AttentionProblem runs = problem();
  runs.mask.query_runs = {{0, 3}};
  EXPECT_THROW(attention_forward(runs, out), UsageError);
  AttentionProblem negative = problem();
  negative.mask.key_runs = {{0, 5}, {5, -1}};
  EXPECT_THROW(attention_forward(negative, out), UsageError);
  AttentionProblem window = problem();
  window.mask.window = -1;
  EXPECT_THROW(attention_forward(window, out), UsageError);
  AttentionProblem wide{.q = tensor({1, 1, 1, 257}),
                        .k = tensor({1, 1, 1, 257}),
                        .v = tensor({1, 1, 1, 257}),
                        .mask = {},
                        .scale = 1.0F};
  EXPECT_THROW(attention_forward(wide, tensor({1, 1, 1, 257})), UsageError);
  EXPECT_THROW(attention_forward(problem(), tensor({1, 4, 2, 8})), UsageError);
  EXPECT_THROW(attention_forward(problem(), tensor({1, 4, 4, 8}, DType::bf16)), UsageError);
  for (const auto& damage :
       std::initializer_list<void (*)(BlockMap&)>{[](BlockMap& map) { map.row_begin.pop_back(); },
                                                  [](BlockMap& map) { map.row_begin.clear(); },
                                                  [](BlockMap& map) { map.row_begin.front() = 1; },
                                                  [](BlockMap& map) { map.columns.pop_back(); },
                                                  [](BlockMap& map) { map.block_keys = 0; }}) {
    const std::vector<std::uint8_t> flags(4 * 2 * 2, 1);
    BlockMap map = block_map_from_flags(4, 2, 2, 2, 2, flags.data());
    AttentionProblem blocks = problem();
    blocks.mask.blocks = std::make_shared<BlockMap>(map);
    EXPECT_NO_THROW(attention_forward(blocks, out));
    damage(map);
    blocks.mask.blocks = std::make_shared<BlockMap>(map);
    EXPECT_THROW(attention_forward(blocks, out), UsageError);
  }
  EXPECT_THROW(attention_delta(tensor({1, 4, 4, 8}, DType::i32), out, tensor({1, 4, 4})),
               UsageError);
  EXPECT_THROW(attention_partial(problem(), out, tensor({1, 4, 5})), UsageError);
  EXPECT_THROW(attention_partial(problem(), out, Tensor()), UsageError);
}

}  // namespace
}  // namespace portolan
