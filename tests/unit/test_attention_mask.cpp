// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <random>
#include <vector>

#include "attention/mask.hpp"
#include "tests/unit/attention_testing.hpp"

namespace portolan {
namespace {

using testing_support::positions_of;

/// Runs of up to 9 tokens with gaps between them.
std::vector<TokenRun> random_runs(std::mt19937& generator, std::int64_t& tokens) {
  std::vector<TokenRun> runs(1 + generator() % 3);
  std::int64_t position = static_cast<std::int64_t>(generator() % 8);
  tokens = 0;
  for (TokenRun& run : runs) {
    run = {position, static_cast<std::int64_t>(generator() % 10)};
    position += run.length + static_cast<std::int64_t>(generator() % 6);
    tokens += run.length;
  }
  return runs;
}

reference::AttentionInput rule_of(const AttentionMask& mask) {
  reference::AttentionInput rule;
  rule.causal = mask.causal;
  rule.window = mask.window;
  return rule;
}

TEST(AttentionMask, VisibleScoresAreThoseThatTheRuleLeaves) {
  std::mt19937 generator(3);
  for (int trial = 0; trial < 500; ++trial) {
    AttentionMask mask;
    mask.causal = generator() % 2 == 0;
    mask.window = static_cast<std::int64_t>(generator() % 6);
    std::int64_t query_tokens = 0;
    std::int64_t key_tokens = 0;
    mask.query_runs = random_runs(generator, query_tokens);
    mask.key_runs = random_runs(generator, key_tokens);
    std::int64_t expected = 0;
    for (const std::int64_t query : positions_of(mask.query_runs)) {
      for (const std::int64_t key : positions_of(mask.key_runs)) {
        expected += reference::sees(rule_of(mask), query, key) ? 1 : 0;
      }
    }
    ASSERT_EQ(visible_scores(mask, query_tokens, key_tokens), expected) << "trial " << trial;
  }
}

TEST(AttentionMask, VisibleScoresOfWholeSequences) {
  EXPECT_EQ(visible_scores({}, 1000, 1000), 500500);
  EXPECT_EQ(visible_scores({.causal = false}, 1000, 300), 300000);
  EXPECT_EQ(visible_scores({.causal = true, .window = 10}, 1000, 1000), 10 * 1000 - 45);
  EXPECT_EQ(visible_scores({}, 1, 1000), 1000);
  EXPECT_EQ(visible_scores({}, 20, 12), 78);  // aligned bottom-right: the first 8 see nothing
}

TEST(AttentionMask, DefaultRunsAreAlignedBottomRight) {
  const auto keys = resolved_key_runs({}, 12);
  ASSERT_EQ(keys.size(), 1U);
  EXPECT_EQ(keys[0].position, 0);
  EXPECT_EQ(keys[0].length, 12);
  EXPECT_EQ(resolved_query_runs({}, 5, 12).at(0).position, 7);
  EXPECT_EQ(resolved_query_runs({}, 20, 12).at(0).position, -8);
  const AttentionMask shifted{.key_runs = {{100, 4}, {40, 8}}};
  EXPECT_EQ(resolved_query_runs(shifted, 3, 12).at(0).position, 101);
}

TEST(AttentionMask, TileVisibilityAgreesWithEveryPairOfTokens) {
  std::mt19937 generator(5);
  int seen[3] = {};
  for (int trial = 0; trial < 3000; ++trial) {
    AttentionMask mask;
    mask.causal = generator() % 2 == 0;
    mask.window = static_cast<std::int64_t>(generator() % 8);
    const RowTile queries{0, static_cast<std::int64_t>(generator() % 20),
                          static_cast<std::int64_t>(generator() % 6)};
    const RowTile keys{0, static_cast<std::int64_t>(generator() % 20),
                       static_cast<std::int64_t>(generator() % 6)};
    std::int64_t visible = 0;
    for (std::int64_t i = 0; i < queries.length; ++i) {
      for (std::int64_t j = 0; j < keys.length; ++j) {
        const bool expected =
            reference::sees(rule_of(mask), queries.position + i, keys.position + j);
        ASSERT_EQ(MaskRule(mask).sees(queries.position + i, keys.position + j), expected);
        visible += expected ? 1 : 0;
      }
    }
    const TileVisibility expected = visible == 0 ? TileVisibility::none
                                    : visible == queries.length * keys.length
                                        ? TileVisibility::full
                                        : TileVisibility::partial;
    ASSERT_EQ(tile_visibility(MaskRule(mask), queries, keys), expected) << "trial " << trial;
    ++seen[static_cast<int>(expected)];
  }
  for (const int count : seen) EXPECT_GT(count, 100);  // the trials have met every kind
}

TEST(AttentionMask, TilesCoverRunsWithoutCrossingThem) {
  std::mt19937 generator(9);
  for (int trial = 0; trial < 200; ++trial) {
    std::int64_t tokens = 0;
    const std::vector<TokenRun> runs = random_runs(generator, tokens);
    const auto tile = static_cast<std::int64_t>(1 + generator() % 5);
    std::vector<std::int64_t> positions;
    for (const RowTile& part : split_runs(runs, tile)) {
      ASSERT_EQ(part.row, static_cast<std::int64_t>(positions.size()));
      ASSERT_GT(part.length, 0);
      ASSERT_LE(part.length, tile);
      for (std::int64_t i = 0; i < part.length; ++i) positions.push_back(part.position + i);
    }
    ASSERT_EQ(positions, positions_of(runs));
  }
}

TEST(AttentionMask, TilesDoNotCrossBlocksOfRows) {
  const std::vector<TokenRun> runs = {{10, 7, 0}, {0, 9, 1}};
  std::vector<std::int64_t> rows;
  for (const RowTile& part : split_runs(runs, 4, 6)) {
    rows.push_back(part.row);
    EXPECT_EQ(part.row / 6, (part.row + part.length - 1) / 6);
    EXPECT_EQ(part.position, part.row < 7 ? 10 + part.row : part.row - 7);
    EXPECT_EQ(part.sequence, part.row < 7 ? 0 : 1);
  }
  EXPECT_EQ(rows, (std::vector<std::int64_t>{0, 4, 6, 7, 11, 12}));
}

TEST(AttentionMask, SeenKeysAndSeeingQueriesAgreeWithEveryPairOfTokens) {
  std::mt19937 generator(13);
  const auto number = [&](std::uint32_t count) {
    return static_cast<std::int64_t>(generator() % count);
  };
  for (int trial = 0; trial < 3000; ++trial) {
    AttentionMask mask;
    mask.causal = number(2) == 0;
    mask.window = number(8);
    const RowTile queries{number(9), number(20), number(6), number(2)};
    const RowTile keys{number(9), number(20), number(6), number(2)};
    std::vector<std::int64_t> seen_rows;
    std::vector<std::int64_t> seeing_rows;
    const auto sees = [&](std::int64_t i, std::int64_t j) {
      return queries.sequence == keys.sequence &&
             reference::sees(rule_of(mask), queries.position + i, keys.position + j);
    };
    for (std::int64_t j = 0; j < keys.length; ++j) {
      for (std::int64_t i = 0; i < queries.length; ++i) {
        if (sees(i, j) && (seen_rows.empty() || seen_rows.back() != keys.row + j)) {
          seen_rows.push_back(keys.row + j);
        }
      }
    }
    for (std::int64_t i = 0; i < queries.length; ++i) {
      for (std::int64_t j = 0; j < keys.length; ++j) {
        if (sees(i, j) && (seeing_rows.empty() || seeing_rows.back() != queries.row + i)) {
          seeing_rows.push_back(queries.row + i);
        }
      }
    }
    const auto rows_of = [](const RowTile& part, const RowTile& whole) {
      std::vector<std::int64_t> rows;
      for (std::int64_t i = 0; i < part.length; ++i) {
        EXPECT_EQ(part.position + i - whole.position, part.row + i - whole.row);
        rows.push_back(part.row + i);
      }
      return rows;
    };
    ASSERT_EQ(rows_of(seen_keys(MaskRule(mask), queries, keys), keys), seen_rows)
        << "trial " << trial;
    ASSERT_EQ(rows_of(seeing_queries(MaskRule(mask), queries, keys), queries), seeing_rows)
        << "trial " << trial;
  }
}

}  // namespace
}  // namespace portolan
