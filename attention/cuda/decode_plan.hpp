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
/// keys that any query sees are cut into splits, one block of the GPU each.
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
  int first_key = 0;  ///< that any query sees
  int split_keys = 0;
  int splits = 1;

  PORTOLAN_HOST_DEVICE constexpr explicit DecodePlan(const AttentionShape& shape)
      : group(static_cast<int>(shape.heads / shape.key_heads)),
        rows(static_cast<int>(shape.query_tokens) * group),
        row_tiles((rows + kRows - 1) / kRows) {
    const ScoreMask mask{static_cast<int>(shape.query_tokens), static_cast<int>(shape.key_tokens),
                         shape.causal, static_cast<int>(shape.window)};
    first_key = mask.keys_of(0).begin < mask.keys ? mask.keys_of(0).begin : mask.keys;
    const int keys = mask.keys - first_key;
    const std::int64_t blocks = shape.batch * shape.key_heads * row_tiles;
    const std::int64_t wanted = (kWantedBlocks + blocks - 1) / (blocks > 0 ? blocks : 1);
    const std::int64_t most = (keys + kLeastSplitKeys - 1) / kLeastSplitKeys;
    const auto parts = static_cast<int>(wanted < most ? wanted : most);
    const int even = parts > 1 ? (keys + parts - 1) / parts : keys;
    split_keys = (even + kSplitGranularity - 1) / kSplitGranularity * kSplitGranularity;
    splits = split_keys > 0 ? (keys + split_keys - 1) / split_keys : 1;
  }

  [[nodiscard]] PORTOLAN_HOST_DEVICE constexpr IndexRange keys_of_split(int split, int keys) const {
    return range_from(first_key + split * split_keys, split_keys, keys);
  }
};

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
/// queries and the result; what a time can be held against.
[[nodiscard]] constexpr std::int64_t decode_bytes(const AttentionShape& shape) {
  const std::int64_t keys = shape.key_tokens - DecodePlan(shape).first_key;
  const std::int64_t cache = 2 * shape.batch * keys * shape.key_heads * shape.head_dim;
  const std::int64_t queries = 2 * shape.batch * shape.query_tokens * shape.heads * shape.head_dim;
  return 2 * (cache + queries);
}

}  // namespace portolan::cuda
