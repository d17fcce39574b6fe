// SPDX-License-Identifier: Apache-2.0
#if defined(PORTOLAN_HAS_OPENMP)
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "attention/openmp/tile_operations.hpp"

namespace portolan::flash {
namespace {

/// A tile's worth of memory, aligned as scratch memory is.
struct alignas(128) Memory {
  float scores[kQueryTile * kKeyTile];
  float out[kQueryTile * 16];
  float sums[kQueryTile * kSumLanes];
  float maximum[kQueryTile];
  BFloat16 weights[kQueryTile * kKeyTile];

  Memory() {
    std::ranges::fill(out, 0.0F);
    std::ranges::fill(sums, 0.0F);
    std::ranges::fill(maximum, std::numeric_limits<float>::lowest());
  }

  [[nodiscard]] SoftmaxTile tile() {
    return {.scores = scores,
            .pair_weights = weights,
            .stride = kKeyTile,
            .rows = kQueryTile,
            .columns = kKeyTile,
            .maximum = maximum,
            .sums = sums,
            .out = out,
            .padded_dim = 16};
  }
};

TEST(AttentionTileOperations, WeightsArePowersOfTwoToFloatAccuracy) {
  Memory memory;
  // The first column of each row is its largest score, 0; the others go down to 2^-125.
  for (int i = 0; i < kQueryTile * kKeyTile; ++i) {
    memory.scores[i] = i % kKeyTile == 0 ? 0.0F : -0.061F * static_cast<float>(i);
  }
  const std::vector<float> scores(std::begin(memory.scores), std::end(memory.scores));
  softmax_tile(memory.tile(), OperandFormat::single);
  for (int i = 0; i < kQueryTile * kKeyTile; ++i) {
    const double expected = std::exp2(static_cast<double>(scores[static_cast<std::size_t>(i)]));
    if (i % kKeyTile == 0) {
      ASSERT_EQ(memory.scores[i], 1.0F);
    } else if (expected > 0x1p-125) {
      ASSERT_NEAR(memory.scores[i] / expected, 1.0, 2e-7)
          << "2^" << scores[static_cast<std::size_t>(i)];
    }
  }
}

TEST(AttentionTileOperations, HiddenColumnsWeighExactlyNothing) {
  for (const OperandFormat format : {OperandFormat::single, OperandFormat::pair}) {
    Memory memory;
    std::ranges::fill(memory.scores, 3.0F);
    int first[kQueryTile];
    int end[kQueryTile];
    std::uint8_t seen[kQueryTile * kKeyTile / 8] = {};
    for (int row = 0; row < kQueryTile; ++row) {
      first[row] = 5 * row;
      end[row] = row == 7 ? 0 : 40 + 3 * row;  // row 7 sees nothing
      for (int column = first[row]; column < end[row]; ++column) {
        seen[(row * kKeyTile + column) / 8] |= static_cast<std::uint8_t>(1U << (column % 8));
      }
    }
    SoftmaxTile tile = memory.tile();
    tile.seen = seen;
    tile.columns = 96;
    softmax_tile(tile, format);
    float totals[kQueryTile];
    add_lanes(memory.sums, kQueryTile, totals);
    for (int row = 0; row < kQueryTile; ++row) {
      EXPECT_EQ(totals[row], static_cast<float>(std::max(0, end[row] - first[row])));
      for (int column = 0; column < tile.columns; ++column) {
        // Pairs: element 2 i of a block of 32 is column i, element 2 i + 1 column i + 16.
        const int block = column / 32 * 32;
        const int within = column % 32;
        const float weight =
            format == OperandFormat::single
                ? memory.scores[row * kKeyTile + column]
                : to_float(memory.weights[row * kKeyTile + block + within % 16 * 2 + within / 16]);
        const bool seen = column >= first[row] && column < end[row];
        ASSERT_EQ(weight, seen ? 1.0F : 0.0F) << "row " << row << " column " << column;
      }
    }
  }
}

TEST(AttentionTileOperations, RaisingTheReferenceRescalesWhatWasSummed) {
  Memory memory;
  std::ranges::fill(memory.scores, 1.0F);
  softmax_tile(memory.tile(), OperandFormat::single);
  std::ranges::fill(memory.out, 6.0F);
  // 5 above the reference stays; 9 above raises it.
  for (int row = 0; row < kQueryTile; ++row) {
    std::fill_n(memory.scores + row * kKeyTile, kKeyTile, row % 2 == 0 ? 6.0F : 10.0F);
  }
  softmax_tile(memory.tile(), OperandFormat::single);
  float totals[kQueryTile];
  add_lanes(memory.sums, kQueryTile, totals);
  for (int row = 0; row < kQueryTile; ++row) {
    const bool raised = row % 2 != 0;
    EXPECT_EQ(memory.maximum[row], raised ? 10.0F : 1.0F);
    EXPECT_FLOAT_EQ(totals[row], raised ? 128.0F * (1.0F + 0x1p-9F) : 128.0F * 33.0F);
    EXPECT_EQ(memory.out[row * 16], raised ? 6.0F * 0x1p-9F : 6.0F);
  }
}

TEST(AttentionTileOperations, PackedKeysAreTransposedAndPadded) {
  for (const int head_dim : {1, 5, 8, 19}) {
    for (const int count : {1, 16, 37, kKeyTile}) {
      constexpr int kStride = 23;
      std::vector<BFloat16> rows(kKeyTile * kStride);
      for (std::size_t i = 0; i < rows.size(); ++i) {
        rows[i] = from_float<BFloat16>(static_cast<float>(i % 251));
      }
      void* pointers[kKeyTile];
      for (int key = 0; key < count; ++key) pointers[key] = &rows[key * kStride];
      const SourceRows source{pointers, DType::bf16, count, head_dim};
      alignas(128) float single[20 * kKeyTile];
      alignas(128) BFloat16 pair[20 * kKeyTile];
      std::ranges::fill(single, 77.0F);
      std::ranges::fill(pair, from_float<BFloat16>(77.0F));
      pack_transposed(source, OperandFormat::single, kKeyTile, single);
      pack_transposed(source, OperandFormat::pair, kKeyTile, pair);
      for (int key = 0; key < (count + 31) / 32 * 32; ++key) {
        for (int d = 0; d < (head_dim + 1) / 2 * 2; ++d) {
          const bool inside = key < count && d < head_dim;
          const float expected =
              inside ? to_float(rows[static_cast<std::size_t>(key * kStride + d)]) : 0.0F;
          if (d < head_dim) {
            ASSERT_EQ(single[d * kKeyTile + key], expected);
          }
          ASSERT_EQ(to_float(pair[(d / 2 * kKeyTile + key) * 2 + d % 2]), expected)
              << "head_dim " << head_dim << " key " << key << " d " << d;
        }
      }
    }
  }
}

TEST(AttentionTileOperations, RowsAreRoundedToNearestEven) {
  alignas(64) float values[32];
  for (int i = 0; i < 32; ++i) values[i] = 1.0F + static_cast<float>(i) * 0x1p-9F;
  values[30] = std::numeric_limits<float>::quiet_NaN();
  values[31] = 3.4e38F;
  const float factor = 1.0F;
  BFloat16 narrow[32];
  Float16 half[32];
  void* narrow_rows[] = {narrow};
  void* half_rows[] = {half};
  store_rows(values, 32, &factor, 1, 31, DType::bf16, narrow_rows);
  store_rows(values, 32, &factor, 1, 31, DType::f16, half_rows);
  for (int i = 0; i < 30; ++i) {
    EXPECT_EQ(narrow[i].bits, from_float<BFloat16>(values[i]).bits) << i;
    EXPECT_EQ(half[i].bits, from_float<Float16>(values[i]).bits) << i;
  }
  EXPECT_TRUE(std::isnan(to_float(narrow[30])));
  EXPECT_TRUE(std::isnan(to_float(half[30])));
}

}  // namespace
}  // namespace portolan::flash
#endif
