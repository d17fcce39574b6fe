// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cstdint>
#include <set>
#include <utility>
#include <vector>

#include "attention/cuda/sm90_layout.hpp"
#include "attention/cuda/sm90_tiles.hpp"

namespace portolan::cuda::sm90 {
namespace {

TEST(Sm90Layout, AccumulatorsAndOperandsCoverTheirTilesOnce) {
  for (const int columns : {16, 64, 128}) {
    std::set<std::pair<int, int>> seen;
    for (int thread = 0; thread < kWarpgroupThreads; ++thread) {
      for (int i = 0; i < columns / 2; ++i) {
        const Coordinate at = accumulator_coordinate(thread, i);
        EXPECT_TRUE(at.row >= 0 && at.row < kWarpgroupRows && at.column >= 0 &&
                    at.column < columns);
        seen.insert({at.row, at.column});
        // Each thread has parts of two rows, eight apart.
        EXPECT_EQ(at.row, accumulator_coordinate(thread, 0).row + 8 * accumulator_row(i));
      }
    }
    EXPECT_EQ(seen.size(), static_cast<std::size_t>(kWarpgroupRows * columns));
  }
}

TEST(Sm90Layout, AResultIsAnOperandInPlace) {
  for (int thread = 0; thread < kWarpgroupThreads; ++thread) {
    for (int step = 0; step < 8; ++step) {
      for (int i = 0; i < 4; ++i) {
        for (int half = 0; half < 2; ++half) {
          Coordinate operand = operand_coordinate(thread, i, half);
          operand.column += step * kProductDepth;
          EXPECT_EQ(operand, accumulator_coordinate(thread, operand_accumulator(step, i, half)));
        }
      }
    }
  }
}

TEST(Sm90Layout, TilesAreSwizzledAsTheHardwareDoes) {
  constexpr int kRows = 128;
  constexpr int kColumns = 128;
  std::set<int> offsets;
  for (int row = 0; row < kRows; ++row) {
    for (int column = 0; column < kColumns; ++column) {
      // Bits 4 to 6 of the plain address xored with bits 7 to 9.
      const int plain = column / 64 * kRows * 128 + row * 128 + column % 64 * 2;
      const int offset = tile_offset(kRows, {row, column});
      ASSERT_EQ(offset, plain ^ (plain >> 7 & 7) << 4);
      offsets.insert(offset);
    }
  }
  EXPECT_EQ(offsets.size(), static_cast<std::size_t>(kRows * kColumns));
  EXPECT_EQ(*offsets.rbegin() + 2, tile_bytes(kRows, kColumns));
}

TEST(Sm90Layout, MatrixStoresHaveNoBankConflicts) {
  for (int step = 0; step < 8; ++step) {
    for (int matrix = 0; matrix < 4; ++matrix) {
      std::set<int> banks;
      for (int lane = 8 * matrix; lane < 8 * matrix + 8; ++lane) {
        banks.insert(tile_offset(kWarpgroupRows, store_coordinate(lane, step)) % 128);
      }
      EXPECT_EQ(banks.size(), 8U);  // eight rows of 16 bytes in eight different places of 128
    }
  }
}

/// Element (row, d) of the product of step `step` whose descriptor and start are given, as the
/// hardware finds it.
int address_along_rows(std::uint64_t descriptor, int row, int d) {
  const auto start = static_cast<int>(descriptor & 0x3FFFU) * 16;
  const auto stride = static_cast<int>(descriptor >> 32 & 0x3FFFU) * 16;
  const int plain = start + row / 8 * stride + row % 8 * 128 + d * 2;
  return plain ^ (plain >> 7 & 7) << 4;
}
int address_across(std::uint64_t descriptor, int column, int d) {
  const auto start = static_cast<int>(descriptor & 0x3FFFU) * 16;
  const auto leading = static_cast<int>(descriptor >> 16 & 0x3FFFU) * 16;
  const auto stride = static_cast<int>(descriptor >> 32 & 0x3FFFU) * 16;
  const int plain = start + column / 64 * leading + column % 64 * 2 + d / 8 * stride + d % 8 * 128;
  return plain ^ (plain >> 7 & 7) << 4;
}

TEST(Sm90Layout, DescriptorsLeadToTheElementsOfTheirStep) {
  constexpr int kBase = 5 * kPatternBytes;
  constexpr int kRows = 128;
  for (int step = 0; step < 8; ++step) {
    for (int d = 0; d < kProductDepth; ++d) {
      for (int i = 0; i < 128; ++i) {
        const std::uint64_t rows = advanced(row_operand(kBase), row_operand_step(kRows, step));
        ASSERT_EQ(rows >> 62, 1U);
        ASSERT_EQ(address_along_rows(rows, i, d),
                  kBase + tile_offset(kRows, {i, step * kProductDepth + d}));
        const std::uint64_t columns =
            advanced(column_operand(kBase, kRows), column_operand_step(step));
        ASSERT_EQ(columns >> 62, 1U);
        ASSERT_EQ(address_across(columns, i, d),
                  kBase + tile_offset(kRows, {step * kProductDepth + d, i}));
      }
    }
  }
}

TEST(Sm90Tiles, EachIsTakenOnceAndLongOnesFirst) {
  for (const int heads : {1, 5, 8}) {
    for (const int section : {1, 3, 8}) {
      TileOrder order;
      order.query_tiles = 7;
      order.heads = heads;
      order.section_heads = section;
      std::set<std::pair<int, int>> seen;
      for (int i = 0; i < order.tiles(); ++i) {
        const TileOrder::Tile tile = order[i];
        EXPECT_TRUE(tile.head >= 0 && tile.head < heads && tile.query_tile >= 0 &&
                    tile.query_tile < order.query_tiles);
        seen.insert({tile.head, tile.query_tile});
        if (i == 0) continue;
        const TileOrder::Tile before = order[i - 1];
        EXPECT_LE(before.head / section, tile.head / section);
        if (before.head / section == tile.head / section) {
          EXPECT_GE(before.query_tile, tile.query_tile);
        }
      }
      EXPECT_EQ(seen.size(), static_cast<std::size_t>(order.tiles()));
    }
  }
}

TEST(Sm90Tiles, SectionsHoldWholeGroupsOfHeadsThatFitTheCache) {
  constexpr std::int64_t kCache = std::int64_t{32} << 20;
  EXPECT_EQ(heads_in_section(16384, 128, 1, 64, kCache), 4);
  EXPECT_EQ(heads_in_section(16384, 128, 4, 64, kCache), 16);
  EXPECT_EQ(heads_in_section(1 << 20, 128, 2, 64, kCache), 2);  // not even one fits
  EXPECT_EQ(heads_in_section(512, 64, 1, 12, kCache), 12);
}

}  // namespace
}  // namespace portolan::cuda::sm90
