// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <set>
#include <utility>
#include <vector>

#include "attention/cuda/decode_plan.hpp"
#include "attention/cuda/score_mask.hpp"
#include "attention/cuda/sm80_layout.hpp"
#include "attention/cuda/unsupported_reason.hpp"

/// The arithmetic of the CUDA attention kernels against brute force.
namespace portolan::cuda {
namespace {

/// Which scores are visible, from the definition in attention_arguments.hpp.
bool sees(const ScoreMask& mask, int query, int key) {
  const int position = query + mask.keys - mask.queries;
  const bool causal = mask.causal || mask.window > 0;
  return (!causal || key <= position) && (mask.window == 0 || position - key < mask.window);
}

std::vector<ScoreMask> masks() {
  std::vector<ScoreMask> all;
  for (const int queries : {1, 2, 7, 16}) {
    for (const int keys : {0, 1, 5, 16, 23}) {
      for (const int window : {0, 1, 4, 30}) {
        for (const bool causal : {false, true}) all.push_back({queries, keys, causal, window});
      }
    }
  }
  return all;
}

TEST(ScoreMask, RangesHoldWhatIsVisible) {
  for (const ScoreMask& mask : masks()) {
    for (int query = 0; query < mask.queries; ++query) {
      for (int key = 0; key < mask.keys; ++key) {
        const bool visible = sees(mask, query, key);
        ASSERT_EQ(mask.keys_of(query).contains(key), visible);
        ASSERT_EQ(mask.queries_of(key).contains(query), visible);
      }
      ASSERT_GE(mask.keys_of(query).begin, 0);
      ASSERT_LE(mask.keys_of(query).end, mask.keys);
    }
  }
}

/// Whether any, and whether every score of a tile is visible.
std::pair<bool, bool> visibility(const ScoreMask& mask, IndexRange queries, IndexRange keys) {
  bool any = false;
  bool every = true;
  for (int query = queries.begin; query < queries.end; ++query) {
    for (int key = keys.begin; key < keys.end; ++key) {
      const bool visible = query < mask.queries && key < mask.keys && sees(mask, query, key);
      any = any || visible;
      every = every && visible;
    }
  }
  return {any, every};
}

TEST(ScoreMask, TilesAreThoseThatAreSeen) {
  constexpr int kTile = 4;
  for (const ScoreMask& mask : masks()) {
    for (int first = 0; first < mask.queries; first += kTile) {
      const IndexRange queries{first, std::min(first + kTile, mask.queries)};
      const IndexRange tiles = mask.key_tiles(queries, kTile);
      for (int tile = 0; tile <= mask.keys / kTile; ++tile) {
        const IndexRange keys{tile * kTile, (tile + 1) * kTile};
        const auto [any, every] = visibility(mask, queries, keys);
        ASSERT_EQ(tiles.contains(tile), any);
        if (any) {
          ASSERT_EQ(mask.hides_keys(queries, keys), !every);
        }
      }
    }
    for (int first = 0; first < mask.keys; first += kTile) {
      const IndexRange keys{first, std::min(first + kTile, mask.keys)};
      const IndexRange tiles = mask.query_tiles(keys, kTile);
      for (int tile = 0; tile <= mask.queries / kTile; ++tile) {
        const IndexRange queries{tile * kTile, (tile + 1) * kTile};
        const auto [any, every] = visibility(mask, queries, keys);
        ASSERT_EQ(tiles.contains(tile), any);
        if (any) {
          ASSERT_EQ(mask.hides_queries(keys, queries), !every);
        }
      }
    }
  }
}

TEST(AttentionEntry, PackedSequencesStartAtTheirOffsets) {
  const std::array<std::int32_t, 4> queries{0, 3, 3, 10};
  const std::array<std::int32_t, 4> keys{0, 5, 6, 20};
  const AttentionShape shape{.batch = 3,
                             .query_tokens = 7,
                             .key_tokens = 14,
                             .query_offsets = queries.data(),
                             .key_offsets = keys.data()};
  const AttentionEntry last(shape, 2);
  EXPECT_EQ(last.mask.queries, 7);
  EXPECT_EQ(last.mask.keys, 14);
  const AttentionStrides strides{.batch = 1000000, .token = 100, .head = 10};
  EXPECT_EQ(last.query_offset(strides, 2), 320);
  EXPECT_EQ(last.key_offset(strides, 1), 610);
  EXPECT_EQ(last.row_offset(10, 4, 2), 23);
  EXPECT_EQ(AttentionEntry(shape, 1).mask.queries, 0);

  const AttentionEntry plain({.batch = 3, .query_tokens = 7, .key_tokens = 14}, 2);
  EXPECT_EQ(plain.query_offset(strides, 1), 2000010);
  EXPECT_EQ(plain.row_offset(7, 4, 3), (2 * 4 + 3) * 7);
}

template <int HeadDim>
void expect_bijective_without_conflicts() {
  constexpr int kChunks = HeadDim / sm80::kChunkElements;
  std::set<std::uint32_t> places;
  for (int row = 0; row < 64; ++row) {
    for (int chunk = 0; chunk < kChunks; ++chunk) {
      const std::uint32_t offset = sm80::chunk_offset<HeadDim>(row, chunk);
      EXPECT_EQ(offset % sm80::kChunkBytes, 0U);
      EXPECT_LT(offset, sm80::tile_bytes<HeadDim>(64));
      EXPECT_TRUE(places.insert(offset).second);
    }
  }
  // ldmatrix reads one chunk of eight rows at a time, out of 32 banks of 4 bytes.
  for (int row = 0; row < 64; row += 8) {
    for (int chunk = 0; chunk < kChunks; ++chunk) {
      std::set<std::uint32_t> groups;
      for (int i = 0; i < 8; ++i) {
        groups.insert(sm80::chunk_offset<HeadDim>(row + i, chunk) % 128 / sm80::kChunkBytes);
      }
      EXPECT_EQ(groups.size(), 8U);
    }
  }
  // Operands move along their rows by exclusive or, and down by whole tiles of rows.
  for (int lane = 0; lane < sm80::kWarpLanes; ++lane) {
    for (const sm80::ChunkIndex operand : {sm80::row_operand(lane), sm80::column_operand(lane)}) {
      const std::uint32_t base = sm80::chunk_offset<HeadDim>(operand.row, operand.chunk);
      for (int step = 0; step < HeadDim / sm80::kFragmentDepth; ++step) {
        EXPECT_EQ(base ^ sm80::depth_step(step),
                  sm80::chunk_offset<HeadDim>(operand.row, operand.chunk + 2 * step));
        EXPECT_EQ(sm80::tile_bytes<HeadDim>(16) + (base ^ sm80::depth_step(step)),
                  sm80::chunk_offset<HeadDim>(operand.row + 16, operand.chunk + 2 * step));
      }
    }
  }
}

TEST(SharedTile, IsBijectiveAndFreeOfBankConflicts) {
  expect_bijective_without_conflicts<64>();
  expect_bijective_without_conflicts<128>();
}

TEST(Fragments, CoverAnAccumulatorOnce) {
  std::set<std::pair<int, int>> places;
  for (int lane = 0; lane < sm80::kWarpLanes; ++lane) {
    for (int i = 0; i < 4; ++i) {
      // PTX ISA: row = lane / 4 for c0, c1 and that plus 8 for c2, c3; column = lane % 4 * 2 + i
      // % 2.
      EXPECT_EQ(sm80::fragment_row(lane, i), (lane >> 2) + (i < 2 ? 0 : 8));
      EXPECT_EQ(sm80::fragment_column(lane, i), (lane & 3) * 2 + (i & 1));
      places.insert({sm80::fragment_row(lane, i), sm80::fragment_column(lane, i)});
    }
  }
  EXPECT_EQ(places.size(), 128U);
}

/// Of an entry with this mask: neither is a key that is seen left out nor one read that is not.
void expect_each_visible_key_once(const DecodePlan& plan, const ScoreMask& mask) {
  int next = mask.keys > 3 ? mask.keys_of(0).begin : DecodePlan::seen_keys(mask).begin;
  for (int split = 0; split < plan.splits; ++split) {
    const IndexRange range = plan.keys_of_split(split, mask);
    ASSERT_EQ(range.size() > 0, mask.keys > 0 && split < plan.splits_to_merge(mask));
    if (range.size() == 0) continue;
    ASSERT_EQ(range.begin, next);
    if (split > 0) {
      ASSERT_EQ((range.begin - plan.keys_of_split(0, mask).begin) % DecodePlan::kSplitGranularity,
                0);
    }
    next = range.end;
  }
  ASSERT_EQ(next, mask.keys);
}

TEST(DecodePlan, SplitsHoldEachVisibleKeyOnce) {
  for (const std::int64_t key_tokens : {0, 1, 63, 64, 255, 256, 257, 1000, 4097, 131072}) {
    for (const std::int64_t window : {0, 1, 100, 3000}) {
      for (const std::int64_t batch : {1, 3, 64}) {
        const AttentionShape shape{.batch = batch,
                                   .query_tokens = 3,
                                   .key_tokens = key_tokens,
                                   .heads = 32,
                                   .key_heads = 8,
                                   .head_dim = 128,
                                   .window = window};
        const DecodePlan plan(shape);
        expect_each_visible_key_once(
            plan, {3, static_cast<int>(key_tokens), true, static_cast<int>(window)});
        ASSERT_EQ(plan.splits_to_merge(DecodePlan::largest_mask(shape)), plan.splits);
        ASSERT_EQ(plan.rows, 12);
        ASSERT_EQ(plan.row_tiles, 1);
        // Enough blocks for a large GPU if there are enough keys, not many more.
        const std::int64_t blocks = batch * 8 * plan.splits;
        if (key_tokens == 131072 && window == 0) {
          ASSERT_GE(blocks, 256);
        }
        ASSERT_LE(blocks, std::max<std::int64_t>(2 * DecodePlan::kWantedBlocks, batch * 8));
      }
    }
  }
}

TEST(DecodePlan, CachedRowsOfAnyNumberAreSpreadOverAllSplits) {
  for (const std::int64_t capacity : {1, 300, 2000, 131072}) {
    for (const std::int64_t window : {0, 100, 3000}) {
      const std::int32_t rows[2] = {0, 0};  // which neither the plan nor what follows from it reads
      const AttentionShape shape{.batch = 1,
                                 .query_tokens = 3,
                                 .key_tokens = capacity,
                                 .heads = 32,
                                 .key_heads = 8,
                                 .head_dim = 128,
                                 .window = window,
                                 .cached_rows = rows};
      AttentionShape full = shape;
      full.cached_rows = nullptr;
      const DecodePlan plan(shape);
      ASSERT_EQ(plan.splits, DecodePlan(full).splits);
      ASSERT_EQ(decode_bytes(shape), decode_bytes(full));
      for (const int keys : {0, 1, 2, 63, 64, 65, 128, 129, 1000, 1999, 2000, 100000, 131072}) {
        if (keys > capacity) continue;
        const ScoreMask mask{3, keys, true, static_cast<int>(window)};
        expect_each_visible_key_once(plan, mask);
        // No split has more than its share, rounded up to what a block reads at a time.
        const int seen = DecodePlan::seen_keys(mask).size();
        const int share = (seen + plan.splits - 1) / plan.splits;
        ASSERT_LT(plan.keys_of_split(0, mask).size(), share + DecodePlan::kSplitGranularity);
      }
    }
  }
}

TEST(DecodePlan, EntriesHaveTheirCachedRows) {
  const std::int32_t rows[] = {0, 9, 3, 7, 4, 4, 6, 2, -5, 40, 12, 13, -3, -1};
  const AttentionShape shape{.batch = 7, .query_tokens = 2, .key_tokens = 10, .cached_rows = rows};
  const AttentionStrides strides{.batch = 1000, .token = 10, .head = 1};
  const std::vector<std::pair<int, int>> expected{{0, 9},  {3, 4},  {4, 0}, {6, 0},
                                                  {0, 10}, {10, 0}, {0, 0}};  // first, number
  for (int i = 0; i < 7; ++i) {
    const AttentionEntry entry = decode_entry(shape, i);
    EXPECT_EQ(entry.key_row, expected[static_cast<std::size_t>(i)].first);
    EXPECT_EQ(entry.mask.keys, expected[static_cast<std::size_t>(i)].second);
    EXPECT_EQ(entry.key_offset(strides, 0), 1000 * i + 10 * entry.key_row);
    EXPECT_EQ(entry.query_offset(strides, 0), 1000 * i);
  }
}

TEST(DecodePlan, PartialResultsHaveTheirOwnPlaces) {
  const AttentionShape shape{.batch = 2,
                             .query_tokens = 3,
                             .key_tokens = 2000,
                             .heads = 4,
                             .key_heads = 2,
                             .head_dim = 64};
  const DecodePlan plan(shape);
  ASSERT_GT(plan.splits, 1);
  const DecodeWorkspace workspace(shape, plan);
  std::set<std::int64_t> places;
  for (std::int64_t row = 0; row < 2 * 3 * 4; ++row) {
    for (int split = 0; split < plan.splits; ++split) {
      for (int d = 0; d < 64; ++d) places.insert(workspace.out(row, split) + d);
      places.insert(workspace.log_sum_exp(row, split));
    }
  }
  EXPECT_EQ(std::ssize(places), 24 * plan.splits * 65);
  EXPECT_EQ(workspace.bytes(), places.size() * sizeof(float));
  EXPECT_EQ(*places.rbegin(), std::ssize(places) - 1);
}

TEST(DecodePlan, BytesAreThoseOfTheVisibleCache) {
  AttentionShape shape{.batch = 2,
                       .query_tokens = 1,
                       .key_tokens = 1000,
                       .heads = 32,
                       .key_heads = 8,
                       .head_dim = 128};
  const std::int64_t queries = 2 * 2 * 32 * 128 * 2;  // read, and the result written
  EXPECT_EQ(decode_bytes(shape), 2 * 2 * 1000 * 8 * 128 * 2 + queries);
  shape.window = 100;
  EXPECT_EQ(decode_bytes(shape), 2 * 2 * 100 * 8 * 128 * 2 + queries);
}

TEST(UnsupportedReason, NamesWhatIsNotServed) {
  const AttentionShape served{.batch = 1,
                              .query_tokens = 16,
                              .key_tokens = 100,
                              .heads = 8,
                              .key_heads = 2,
                              .head_dim = 64};
  EXPECT_EQ(sm80_unsupported_reason(served), nullptr);
  EXPECT_EQ(decode_kernel_unsupported_reason(served), nullptr);
  const auto changed = [&](auto change) {
    AttentionShape shape = served;
    change(shape);
    return shape;
  };
  const std::int32_t offsets = 0;
  for (const AttentionShape& shape :
       {changed([](AttentionShape& s) { s.head_dim = 96; }),
        changed([](AttentionShape& s) { s.heads = 7; }),
        changed([](AttentionShape& s) { s.key_heads = 0; }),
        changed([](AttentionShape& s) { s.scale = 0.0F; }),
        changed([](AttentionShape& s) { s.key_tokens = std::int64_t{1} << 30; }),
        changed([&](AttentionShape& s) { s.query_offsets = &offsets; })}) {
    EXPECT_NE(sm80_unsupported_reason(shape), nullptr);
    EXPECT_NE(decode_kernel_unsupported_reason(shape), nullptr);
  }
  const AttentionShape cached = changed([&](AttentionShape& s) { s.cached_rows = &offsets; });
  EXPECT_EQ(decode_kernel_unsupported_reason(cached), nullptr);
  EXPECT_STREQ(sm80_unsupported_reason(cached), "only the decoding kernel takes cached rows");
  EXPECT_NE(whole_pass_unsupported_reason(cached), nullptr);
  for (const AttentionShape& shape :
       {changed([](AttentionShape& s) { s.query_tokens = 17; }),
        changed([&](AttentionShape& s) { s.query_offsets = s.key_offsets = &offsets; })}) {
    EXPECT_EQ(sm80_unsupported_reason(shape), nullptr);
    EXPECT_NE(decode_kernel_unsupported_reason(shape), nullptr);
  }
}

}  // namespace
}  // namespace portolan::cuda
