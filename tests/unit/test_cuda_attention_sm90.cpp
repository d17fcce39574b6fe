// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "attention/cuda/sm90_backward_keys_block.hpp"
#include "attention/cuda/sm90_backward_queries_block.hpp"
#include "attention/cuda/sm90_forward_block.hpp"
#include "tests/reference/attention_reference.hpp"
#include "tests/unit/emulated_attention_testing.hpp"
#include "tests/unit/emulated_hopper_lane.hpp"

/// The sm_90a kernels' own code, block by block on emulated threads, against attention in f64.
namespace portolan {
namespace {

using cuda::AttentionElement;
using cuda::AttentionOutput;
using testing_support::Attention;
using testing_support::EmulatedHopperLane;
using testing_support::HopperLiberties;
using testing_support::Rows;
using Case = testing_support::CudaAttentionCase;

template <typename Block>
void run_blocks(const typename Block::Parameters& parameters, std::int64_t blocks,
                HopperLiberties liberties) {
  for (int index = 0; index < blocks; ++index) {
    testing_support::run_emulated_hopper_block(
        Block::kThreads, sizeof(typename Block::Shared), liberties, index, static_cast<int>(blocks),
        [&](const EmulatedHopperLane& lane, std::byte* shared) {
          Block(lane, parameters, *reinterpret_cast<typename Block::Shared*>(shared)).run();
        });
  }
}

template <AttentionElement kElement, int kHeadDim>
void run_forward(Attention& attention, HopperLiberties liberties, AttentionOutput output) {
  using Block = cuda::sm90::ForwardBlock<EmulatedHopperLane, kElement, kHeadDim>;
  const cuda::AttentionShape shape = attention.shape();
  int next_tile = 0;
  typename Block::Parameters parameters;
  parameters.problem = attention.problem({{&attention.q, Block::kQueries},
                                          {&attention.k, Block::kKeys},
                                          {&attention.v, Block::kKeys},
                                          {&attention.out, cuda::sm90::kWarpgroupRows}});
  parameters.order.query_tiles =
      cuda::sm90::divide_up(static_cast<int>(shape.query_tokens), Block::kQueries);
  parameters.order.heads = static_cast<int>(shape.batch * shape.heads);
  parameters.order.section_heads = static_cast<int>(shape.heads);
  parameters.next_tile = &next_tile;
  parameters.log_sum_exp = attention.log_sum_exp.data();
  parameters.out = attention.out.float_result(output);
  run_blocks<Block>(parameters, std::min(2, parameters.order.tiles()), liberties);
}

template <AttentionElement kElement, int kHeadDim>
void run_backward(Attention& attention, HopperLiberties liberties, AttentionOutput output) {
  const cuda::AttentionShape shape = attention.shape();
  {
    using Block = cuda::sm90::BackwardKeysBlock<EmulatedHopperLane, kElement, kHeadDim>;
    typename Block::Parameters parameters;
    parameters.problem = attention.problem({{&attention.q, Block::kQueries},
                                            {&attention.grad_out, Block::kQueries},
                                            {&attention.k, Block::kKeys},
                                            {&attention.v, Block::kKeys},
                                            {&attention.dk, cuda::sm90::kWarpgroupRows},
                                            {&attention.dv, cuda::sm90::kWarpgroupRows}});
    parameters.log_sum_exp = attention.log_sum_exp.data();
    parameters.delta = attention.delta.data();
    parameters.dk = attention.dk.float_result(output);
    parameters.dv = attention.dv.float_result(output);
    run_blocks<Block>(parameters, Block::blocks(shape), liberties);
  }
  using Block = cuda::sm90::BackwardQueriesBlock<EmulatedHopperLane, kElement, kHeadDim>;
  typename Block::Parameters parameters;
  parameters.problem = attention.problem({{&attention.q, Block::kQueries},
                                          {&attention.grad_out, Block::kQueries},
                                          {&attention.k, Block::kKeys},
                                          {&attention.v, Block::kKeys},
                                          {&attention.dq, cuda::sm90::kWarpgroupRows}});
  parameters.log_sum_exp = attention.log_sum_exp.data();
  parameters.delta = attention.delta.data();
  parameters.dq = attention.dq.float_result(output);
  run_blocks<Block>(parameters, Block::blocks(shape), liberties);
}

template <AttentionElement kElement>
void run_of(const Case& shape, Attention& attention, bool backward, HopperLiberties liberties,
            AttentionOutput output) {
  if (shape.head_dim > 64) {
    backward ? run_backward<kElement, 128>(attention, liberties, output)
             : run_forward<kElement, 128>(attention, liberties, output);
  } else {
    backward ? run_backward<kElement, 64>(attention, liberties, output)
             : run_forward<kElement, 64>(attention, liberties, output);
  }
}
void run(const Case& shape, Attention& attention, bool backward, HopperLiberties liberties,
         AttentionOutput output = AttentionOutput::element) {
  if (shape.element == AttentionElement::bf16) {
    run_of<AttentionElement::bf16>(shape, attention, backward, liberties, output);
  } else {
    run_of<AttentionElement::f16>(shape, attention, backward, liberties, output);
  }
}

/// By the norm of the difference; NaN never passes. What is 0 in f64 may be off by f32 rounding.
void expect_close(const std::vector<double>& values, const std::vector<double>& expected,
                  double bound, const std::string& what) {
  ASSERT_EQ(values.size(), expected.size()) << what;
  double difference = 0.0;
  double norm = 0.0;
  for (std::size_t i = 0; i < values.size(); ++i) {
    difference += (values[i] - expected[i]) * (values[i] - expected[i]);
    norm += expected[i] * expected[i];
  }
  constexpr double kSmall = 1e-6;
  const double small = kSmall * std::sqrt(static_cast<double>(values.size()));
  EXPECT_LE(std::sqrt(difference), bound * std::sqrt(norm) + small) << what;
}

/// Rounding of one product's operands and of the result.
double bound_of(const Case& shape) { return shape.element == AttentionElement::bf16 ? 4e-3 : 5e-4; }

const HopperLiberties kOrders[] = {
    {.late_copies = false, .late_products = false, .last_warp_first = false},
    {.late_copies = false, .late_products = true, .last_warp_first = true},
    {.late_copies = true, .late_products = true, .last_warp_first = false},
    // Products that start before what they read has arrived.
    {.late_copies = true, .late_products = false, .last_warp_first = true},
};

class CudaAttentionSm90 : public ::testing::TestWithParam<Case> {};

TEST_P(CudaAttentionSm90, ForwardIsAttention) {
  const Case& shape = GetParam();
  Attention attention(shape);
  run(shape, attention, false, kOrders[0]);
  for (std::size_t entry = 0; entry < shape.queries.size(); ++entry) {
    const std::string where = "entry " + std::to_string(entry);
    const reference::AttentionOutput expected = reference::attention(attention.input(entry));
    expect_close(attention.out.entry(entry), expected.out, bound_of(shape), where);
    const auto rows = static_cast<std::size_t>(shape.queries[entry]);
    for (int head = 0; head < shape.heads; ++head) {
      for (std::size_t i = 0; i < rows; ++i) {
        const double sum = expected.log_sum_exp[static_cast<std::size_t>(head) * rows + i];
        const float found = attention.log_sum_exp[attention.statistics_offset(entry, head) + i];
        if (std::isinf(sum)) {
          ASSERT_EQ(found, -std::numeric_limits<float>::infinity()) << where << ", row " << i;
        } else {
          ASSERT_NEAR(found, sum, 2e-5 * (1.0 + std::abs(sum))) << where << ", row " << i;
        }
      }
    }
  }
}

TEST(CudaAttentionSm90Values, ANaNReachesTheRowsThatSeeItAndTheirStatistics) {
  constexpr int kToken = 90;
  for (const int head_dim : {64, 128}) {
    const Case shape{.name = "NaN", .queries = {150}, .keys = {170}, .head_dim = head_dim};
    Attention attention(shape);
    attention.k.set(static_cast<std::size_t>(kToken * head_dim + 5),
                    std::numeric_limits<float>::quiet_NaN());
    run(shape, attention, false, kOrders[0]);
    const std::vector<double> out = attention.out.entry(0);
    for (int query = 0; query < 150; ++query) {
      const bool sees = query + 20 >= kToken;
      ASSERT_EQ(std::isnan(attention.log_sum_exp[static_cast<std::size_t>(query)]), sees) << query;
      for (int i = 0; i < head_dim; ++i) {
        ASSERT_EQ(std::isnan(out[static_cast<std::size_t>(query * head_dim + i)]), sees) << query;
      }
    }
  }
}

TEST_P(CudaAttentionSm90, BackwardIsItsGradient) {
  const Case& shape = GetParam();
  Attention attention(shape);
  attention.set_statistics_from_reference();
  run(shape, attention, true, kOrders[0]);
  for (std::size_t entry = 0; entry < shape.queries.size(); ++entry) {
    const std::string where = "entry " + std::to_string(entry);
    const reference::AttentionGradient expected =
        reference::attention_gradient(attention.input(entry), attention.grad_out.entry(entry));
    expect_close(attention.dq.entry(entry), expected.dq, bound_of(shape), where + ", dq");
    expect_close(attention.dk.entry(entry), expected.dk, bound_of(shape), where + ", dk");
    expect_close(attention.dv.entry(entry), expected.dv, bound_of(shape), where + ", dv");
  }
}

TEST_P(CudaAttentionSm90, DoesNotDependOnTheOrderInWhichTheHardwareRunsThings) {
  const Case& shape = GetParam();
  Attention first(shape);
  first.set_statistics_from_reference();
  run(shape, first, true, kOrders[0]);
  run(shape, first, false, kOrders[0]);
  for (const HopperLiberties& order : {kOrders[1], kOrders[2], kOrders[3]}) {
    Attention other(shape);
    other.set_statistics_from_reference();
    run(shape, other, true, order);
    run(shape, other, false, order);
    EXPECT_EQ(other.out.bits(), first.out.bits());
    EXPECT_EQ(other.dq.bits(), first.dq.bits());
    EXPECT_EQ(other.dk.bits(), first.dk.bits());
    EXPECT_EQ(other.dv.bits(), first.dv.bits());
    EXPECT_EQ(0, std::memcmp(other.log_sum_exp.data(), first.log_sum_exp.data(),
                             first.log_sum_exp.size() * sizeof(float)));
  }
}

TEST_P(CudaAttentionSm90, WritesOrAddsTheSameInSinglePrecision) {
  const Case& shape = GetParam();
  Attention attention(shape);
  attention.set_statistics_from_reference();
  run(shape, attention, true, kOrders[0]);
  run(shape, attention, false, kOrders[0]);
  for (const AttentionOutput output : {AttentionOutput::f32, AttentionOutput::f32_sum}) {
    attention.set_statistics_from_reference();  // the forward pass has written its own
    run(shape, attention, true, kOrders[0], output);
    // The forward pass does not add.
    run(shape, attention, false, kOrders[0], AttentionOutput::f32);
    for (const Rows* rows : {&attention.dq, &attention.dk, &attention.dv, &attention.out}) {
      const bool adds = output == AttentionOutput::f32_sum && rows != &attention.out;
      for (std::size_t i = 0; i < rows->floats().size(); ++i) {
        const float value = rows->floats()[i];
        if (adds) {
          // Of what was rounded once more by the addition no more than this can be said.
          const float element = static_cast<float>(rows->value(i));
          ASSERT_NEAR(value - Rows::kBefore, element, 1e-6 + std::abs(element) / 128.0) << i;
        } else {
          ASSERT_EQ(rows->rounded(value), rows->bits()[i]) << i;
        }
      }
    }
  }
}

const Case kCases[] = {
    {.name = "one_token", .queries = {1}, .keys = {1}},
    {.name = "causal", .queries = {300, 300}, .keys = {300, 300}, .heads = 2},
    {.name = "causal_f16_64",
     .element = AttentionElement::f16,
     .queries = {450},
     .keys = {450},
     .heads = 2,
     .head_dim = 64},
    {.name = "full", .queries = {200}, .keys = {333}, .causal = false},
    {.name = "full_64", .queries = {100}, .keys = {400}, .head_dim = 64, .causal = false},
    {.name = "shared_key_heads",
     .queries = {140},
     .keys = {200},
     .heads = 4,
     .key_heads = 2,
     .head_dim = 64},
    {.name = "shared_key_heads_f16",
     .element = AttentionElement::f16,
     .queries = {130},
     .keys = {70},
     .heads = 3,
     .key_heads = 1},
    {.name = "queries_without_keys", .queries = {400}, .keys = {130}},
    {.name = "window", .queries = {500}, .keys = {500}, .window = 100},
    {.name = "narrow_window", .queries = {129}, .keys = {400}, .head_dim = 64, .window = 1},
    {.name = "head_dim_96", .queries = {70}, .keys = {150}, .head_dim = 96},
    {.name = "head_dim_40", .queries = {70}, .keys = {150}, .head_dim = 40},
    {.name = "packed",
     .queries = {130, 1, 257, 64},
     .keys = {130, 1, 257, 200},
     .heads = 2,
     .key_heads = 1,
     .packed = true},
    {.name = "packed_64_full",
     .queries = {5, 200, 0, 70},
     .keys = {150, 3, 9, 70},
     .head_dim = 64,
     .causal = false,
     .packed = true},
};

INSTANTIATE_TEST_SUITE_P(Emulated, CudaAttentionSm90, ::testing::ValuesIn(kCases),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace portolan
