// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#include "attention/cuda/attention_arguments.hpp"
#include "attention/cuda/score_mask.hpp"
#include "attention/cuda/sm80_layout.hpp"

/// How attention of few queries over many keys is cut up.
namespace portolan::cuda {

inline constexpr std::int64_t kMaximumDecodeQueries = 16;

/// The rows that share keys are the queries of all heads of one key/value head: row r is token
/// r / group of head r % group. They go in tiles of 16, the least that a matrix product takes. The
/// keys that any query sees are cut into splits, one block of the GPU each. How many there are
/// follows from the most keys that an entry may have; the keys that it has are cut evenly into as
/// many. So what is launched does not depend on cached rows, and few of them still keep many blocks
/// busy.
struct DecodePlan {
  static constexpr int kRows = sm80::kFragmentRows;
  static constexpr int kWarps = 4;
  static constexpr int kWarpKeys = 16;
  /// A multiple of the keys that the warps of a block read at a time.
  static constexpr int kSplitGranularity = kWarps * kWarpKeys;
  /// Fewer keys are not worth a block of their own: 256 keys of 128 elements are 128 KiB.
  static constexpr int kLeastSplitKeys = 256;
  /// Two blocks on each of an H100's 132 multiprocessors, which keeps its memory busy. Not the
  /// number that the GPU at hand has: the same arguments shall give the same bits.
  static constexpr int kWantedBlocks = 264;

  int group = 1;  ///< query heads of a key/value head
  int rows = 0;
  int row_tiles = 0;
  int splits = 1;

  PORTOLAN_HOST_DEVICE constexpr explicit DecodePlan(const AttentionShape& shape)
      : group(static_cast<int>(shape.heads / shape.key_heads)),
        rows(static_cast<int>(shape.query_tokens) * group),
        row_tiles((rows + kRows - 1) / kRows) {
    const int keys = seen_keys(largest_mask(shape)).size();
    const std::int64_t blocks = shape.batch * shape.key_heads * row_tiles;
    const std::int64_t wanted = (kWantedBlocks + blocks - 1) / (blocks > 0 ? blocks : 1);
    const std::int64_t most = (keys + kLeastSplitKeys - 1) / kLeastSplitKeys;
    const auto parts = static_cast<int>(wanted < most ? wanted : most);
    const int least = split_keys(keys, parts > 1 ? parts : 1);
    splits = least > 0 ? (keys + least - 1) / least : 1;
  }

  /// Of an entry with as many keys as there may be.
  [[nodiscard]] static PORTOLAN_HOST_DEVICE constexpr ScoreMask largest_mask(
      const AttentionShape& shape) {
    return {static_cast<int>(shape.query_tokens), static_cast<int>(shape.key_tokens), shape.causal,
            static_cast<int>(shape.window)};
  }
  /// Those that any query sees.
  [[nodiscard]] static PORTOLAN_HOST_DEVICE constexpr IndexRange seen_keys(const ScoreMask& mask) {
    const int first = mask.keys_of(0).begin;
    return {first < mask.keys ? first : mask.keys, mask.keys};
  }
  /// Empty for the last splits of an entry with few keys.
  [[nodiscard]] PORTOLAN_HOST_DEVICE constexpr IndexRange keys_of_split(
      int split, const ScoreMask& mask) const {
    const IndexRange seen = seen_keys(mask);
    const int keys = split_keys(seen.size(), splits);
    return range_from(seen.begin + split * keys, keys, seen.end);
  }

  /// The splits before this one leave results in the workspace. Those behind have no keys and leave
  /// nothing there; but a split that is the only one writes the result itself, keys or no keys.
  [[nodiscard]] PORTOLAN_HOST_DEVICE constexpr int splits_to_merge(const ScoreMask& mask) const {
    if (splits == 1) return 1;
    const int seen = seen_keys(mask).size();
    return seen == 0 ? 0 : (seen - 1) / split_keys(seen, splits) + 1;
  }

 private:
  [[nodiscard]] static PORTOLAN_HOST_DEVICE constexpr int split_keys(int keys, int parts) {
    const int even = (keys + parts - 1) / parts;
    return (even + kSplitGranularity - 1) / kSplitGranularity * kSplitGranularity;
  }
};

/// Where a batch entry lies, whose keys are those of its cached rows if there are such.
[[nodiscard]] PORTOLAN_HOST_DEVICE constexpr AttentionEntry decode_entry(
    const AttentionShape& shape, int index) {
  AttentionEntry entry(shape, index);
  if (shape.cached_rows == nullptr) return entry;
  const int capacity = entry.mask.keys;
  const auto clamped = [capacity](int row) {
    return row < 0 ? 0 : row < capacity ? row : capacity;
  };
  const std::int32_t* rows = shape.cached_rows + 2 * std::int64_t{index};
  entry.key_row = clamped(rows[0]);
  entry.mask.keys = IndexRange{clamped(rows[0]), clamped(rows[1])}.size();
  return entry;
}

/// Where partial results of splits lie in the workspace, f32: out [rows of all entries and heads,
/// splits, head_dim], then log-sum-exp [rows, splits]; nothing if there is but one split.
struct DecodeWorkspace {
  std::int64_t rows = 0;
  std::int64_t splits = 1;
  std::int64_t head_dim = 0;

  PORTOLAN_HOST_DEVICE constexpr DecodeWorkspace(const AttentionShape& shape,
                                                 const DecodePlan& plan)
      : rows(shape.batch * shape.heads * shape.query_tokens),
        splits(plan.splits),
        head_dim(shape.head_dim) {}

  [[nodiscard]] PORTOLAN_HOST_DEVICE constexpr std::int64_t out(std::int64_t row,
                                                                std::int64_t split) const {
    return (row * splits + split) * head_dim;
  }
  [[nodiscard]] PORTOLAN_HOST_DEVICE constexpr std::int64_t log_sum_exp(std::int64_t row,
                                                                        std::int64_t split) const {
    return rows * splits * head_dim + row * splits + split;
  }
  [[nodiscard]] constexpr std::size_t bytes() const {
    return splits > 1 ? static_cast<std::size_t>(log_sum_exp(rows, 0)) * sizeof(float) : 0;
  }
};

/// Bytes of device memory that a call has to read and write: each visible key and value once, the
/// queries and the result; what a time can be held against. Of cached rows, which only the device
/// knows, the most: those of a full cache.
[[nodiscard]] constexpr std::int64_t decode_bytes(const AttentionShape& shape) {
  const std::int64_t keys = DecodePlan::seen_keys(DecodePlan::largest_mask(shape)).size();
  const std::int64_t cache = 2 * shape.batch * keys * shape.key_heads * shape.head_dim;
  const std::int64_t queries = 2 * shape.batch * shape.query_tokens * shape.heads * shape.head_dim;
  return 2 * (cache + queries);
}

}  // namespace portolan::cuda
