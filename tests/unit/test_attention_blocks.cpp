// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

#include "attention/block_patterns.hpp"
#include "attention/mask.hpp"
#include "core/error.hpp"

namespace portolan {
namespace {

/// Rows of one head, 'x' for a block that is computed.
std::vector<std::string> picture(const BlockMap& map, std::int64_t head = 0) {
  std::vector<std::string> rows;
  for (std::int64_t row = 0; row < map.block_rows; ++row) {
    std::string text;
    for (std::int64_t column = 0; column < map.block_columns; ++column) {
      text += map.contains(head, row, column) ? 'x' : '.';
    }
    rows.push_back(text);
  }
  return rows;
}

using Picture = std::vector<std::string>;

TEST(AttentionBlocks, PatternsOfSquareProblems) {
  const BlockGrid grid{
      .heads = 2, .query_tokens = 39, .key_tokens = 39, .block_queries = 8, .block_keys = 8};
  EXPECT_EQ(picture(local_blocks(grid, 0)), (Picture{"x....", ".x...", "..x..", "...x.", "....x"}));
  EXPECT_EQ(picture(local_blocks(grid, 1), 1),
            (Picture{"xx...", "xxx..", ".xxx.", "..xxx", "...xx"}));
  EXPECT_EQ(picture(strided_blocks(grid, 2)),
            (Picture{"x.x.x", ".x.x.", "x.x.x", ".x.x.", "x.x.x"}));
  EXPECT_EQ(picture(global_blocks(grid, 1)),
            (Picture{"xxxxx", "x....", "x....", "x....", "x...."}));
  EXPECT_EQ(picture(united(local_blocks(grid, 0), global_blocks(grid, 1)), 1),
            (Picture{"xxxxx", "xx...", "x.x..", "x..x.", "x...x"}));
}

TEST(AttentionBlocks, PatternsFollowTheDiagonalOfUnequalBlocksAndLengths) {
  // The queries stand at positions 8 to 31.
  const BlockGrid grid{.query_tokens = 24, .key_tokens = 32, .block_queries = 8, .block_keys = 4};
  EXPECT_EQ(picture(local_blocks(grid, 0)), (Picture{"..xx....", "....xx..", "......xx"}));
  EXPECT_EQ(picture(local_blocks(grid, 1)), (Picture{".xxxx...", "...xxxx.", ".....xxx"}));
  EXPECT_EQ(picture(strided_blocks(grid, 2)), (Picture{"x.xx.x.x", "x.x.xx.x", "x.x.x.xx"}));
  EXPECT_EQ(picture(global_blocks(grid, 3)), (Picture{"xxxxxxxx", "xxx.....", "xxx....."}));
  // The first 8 queries precede all keys.
  const BlockGrid longer{.query_tokens = 24, .key_tokens = 16, .block_queries = 8, .block_keys = 8};
  EXPECT_EQ(picture(local_blocks(longer, 0)), (Picture{"..", "x.", ".x"}));
}

TEST(AttentionBlocks, PatternsRejectWhatCannotMeanAnything) {
  const BlockGrid grid{.query_tokens = 8, .key_tokens = 8, .block_queries = 8, .block_keys = 8};
  EXPECT_THROW(static_cast<void>(local_blocks(grid, -1)), UsageError);
  EXPECT_THROW(static_cast<void>(strided_blocks(grid, 0)), UsageError);
  EXPECT_THROW(static_cast<void>(global_blocks(grid, -1)), UsageError);
  EXPECT_THROW(static_cast<void>(local_blocks({.block_keys = 0}, 1)), UsageError);
  BlockGrid other = grid;
  other.key_tokens = 9;
  EXPECT_THROW(static_cast<void>(united(local_blocks(grid, 0), local_blocks(other, 0))),
               UsageError);
}

TEST(AttentionBlocks, TransposedMapsExchangeRowsAndColumns) {
  std::mt19937 generator(5);
  for (int trial = 0; trial < 100; ++trial) {
    const auto heads = static_cast<std::int64_t>(1 + generator() % 3);
    const auto rows = static_cast<std::int64_t>(generator() % 6);
    const auto columns = static_cast<std::int64_t>(1 + generator() % 6);
    std::vector<std::uint8_t> flags(static_cast<std::size_t>(heads * rows * columns));
    for (std::uint8_t& flag : flags) flag = generator() % 3 == 0 ? 1 : 0;
    const BlockMap map = block_map_from_flags(heads, rows, columns, 4, 7, flags.data());
    const BlockMap other = transposed(map);
    ASSERT_EQ(other.block_rows, columns);
    ASSERT_EQ(other.block_columns, rows);
    ASSERT_EQ(other.block_queries, 7);
    ASSERT_EQ(other.block_keys, 4);
    ASSERT_EQ(other.columns.size(), map.columns.size());
    for (std::int64_t i = 0; i < heads * rows * columns; ++i) {
      const std::int64_t head = i / columns / rows;
      ASSERT_EQ(other.contains(head, i % columns, i / columns % rows), flags[i] != 0)
          << "trial " << trial << " block " << i;
    }
  }
}

}  // namespace
}  // namespace portolan
