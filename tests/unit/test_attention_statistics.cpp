// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>

#include "attention/attention.hpp"
#include "attention/block_patterns.hpp"
#include "tests/unit/attention_testing.hpp"

/// What tiled kernels report, on the device whose kernels are the portable ones alone.
namespace portolan {
namespace {

using testing_support::AttentionCase;
using testing_support::AttentionSetup;
using testing_support::make_setup;

AttentionStatistics forward_statistics(const AttentionCase& c, AttentionMethod method) {
  AttentionSetup setup = make_setup(c, {DeviceKind::serial, 0});
  AttentionStatistics statistics;
  setup.problem.statistics = &statistics;
  attention_forward(setup.problem, setup.out, setup.log_sum_exp, method);
  const AttentionStatistics once = statistics;
  attention_forward(setup.problem, setup.out, setup.log_sum_exp, method);
  EXPECT_EQ(statistics.tiles_visited, 2 * once.tiles_visited);
  EXPECT_EQ(statistics.tiles_compared, 2 * once.tiles_compared);
  EXPECT_GT(once.query_tile, 0);
  EXPECT_GT(once.key_tile, 0);
  return once;
}

TEST(AttentionStatistics, CausalTilesAreThoseUpToTheDiagonal) {
  const AttentionCase c{
      .batch = 2, .query_tokens = 500, .key_tokens = 500, .heads = 3, .key_heads = 1};
  const AttentionStatistics found = forward_statistics(c, AttentionMethod::flash);
  std::int64_t visited = 0;
  std::int64_t compared = 0;
  for (std::int64_t first = 0; first < 500; first += found.query_tile) {
    const std::int64_t end = std::min<std::int64_t>(500, first + found.query_tile);
    for (std::int64_t key = 0; key < end; key += found.key_tile) {
      ++visited;
      if (std::min(end, key + found.key_tile) - 1 > first) ++compared;
    }
  }
  EXPECT_EQ(found.tiles_visited, 6 * visited);
  EXPECT_EQ(found.tiles_compared, 6 * compared);
  EXPECT_LT(compared, visited / 2);
}

TEST(AttentionStatistics, NothingIsComparedWithoutAMask) {
  AttentionCase c{.query_tokens = 100, .key_tokens = 300};
  c.mask.causal = false;
  EXPECT_EQ(forward_statistics(c, AttentionMethod::flash).tiles_compared, 0);
}

TEST(AttentionStatistics, WindowsCostLengthTimesWindow) {
  const auto visited = [](std::int64_t tokens) {
    constexpr std::int64_t kWindow = 128;
    AttentionCase c{.query_tokens = tokens, .key_tokens = tokens, .head_dim = 4};
    c.mask.window = kWindow;
    const AttentionStatistics found = forward_statistics(c, AttentionMethod::window);
    const std::int64_t tiles = (tokens + found.query_tile - 1) / found.query_tile;
    EXPECT_LE(found.tiles_visited, tiles * ((kWindow + found.query_tile - 1) / found.key_tile + 1));
    return static_cast<double>(found.tiles_visited);
  };
  EXPECT_NEAR(visited(4096) / visited(2048), 2.0, 0.05);
}

TEST(AttentionStatistics, OnlyListedBlocksAreVisited) {
  AttentionCase c{.batch = 2, .query_tokens = 512, .key_tokens = 512, .heads = 2, .key_heads = 1};
  c.head_dim = 8;
  c.mask.causal = false;
  c.mask.blocks = std::make_shared<BlockMap>(
      united(local_blocks({2, 512, 512, 64, 64}, 1), strided_blocks({2, 512, 512, 64, 64}, 4)));
  const AttentionStatistics found = forward_statistics(c, AttentionMethod::block_sparse);
  ASSERT_EQ(64 % found.query_tile, 0);
  ASSERT_EQ(64 % found.key_tile, 0);
  const auto listed = static_cast<std::int64_t>(c.mask.blocks->columns.size());
  EXPECT_LT(listed, 2 * 8 * 8 * 6 / 10);
  EXPECT_EQ(found.tiles_visited,
            c.batch * listed * (64 / found.query_tile) * (64 / found.key_tile));
  EXPECT_EQ(found.tiles_compared, 0);
}

TEST(AttentionStatistics, PackedSequencesDoNotMeet) {
  AttentionCase packed{.query_tokens = 512, .key_tokens = 512};
  packed.mask.query_runs =
      packed.mask.key_runs = {{0, 128, 0}, {0, 128, 1}, {0, 128, 2}, {0, 128, 3}};
  const AttentionCase one{.query_tokens = 128, .key_tokens = 128};
  EXPECT_EQ(forward_statistics(packed, AttentionMethod::flash).tiles_visited,
            4 * forward_statistics(one, AttentionMethod::flash).tiles_visited);
}

TEST(AttentionStatistics, BothBackwardPassesVisitHalfOfACausalSquare) {
  const AttentionCase c{.query_tokens = 512, .key_tokens = 512};
  AttentionSetup setup = make_setup(c, {DeviceKind::serial, 0});
  AttentionStatistics statistics;
  setup.problem.statistics = &statistics;
  attention_backward(setup.problem, setup.gradients, AttentionMethod::flash);
  ASSERT_EQ(statistics.query_tile, statistics.key_tile);
  const std::int64_t side = 512 / statistics.query_tile;
  EXPECT_EQ(statistics.tiles_visited, 2 * (side * (side + 1) / 2));
  EXPECT_EQ(statistics.tiles_compared, 2 * side);
}

}  // namespace
}  // namespace portolan
