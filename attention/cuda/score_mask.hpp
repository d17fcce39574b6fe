// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "attention/cuda/attention_arguments.hpp"
#include "core/dtype.hpp"

/// Which scores of one batch entry or packed sequence are visible, and which tiles of them a kernel
/// has to visit, in the 32-bit integers that kernels compute with.
namespace portolan::cuda {

/// Half-open.
struct IndexRange {
  int begin = 0;
  int end = 0;
  [[nodiscard]] PORTOLAN_HOST_DEVICE constexpr int size() const {
    return end > begin ? end - begin : 0;
  }
  [[nodiscard]] PORTOLAN_HOST_DEVICE constexpr bool contains(int index) const {
    return index >= begin && index < end;
  }
};

/// Up to `count` indices from `begin` on, none of them past `end`.
[[nodiscard]] PORTOLAN_HOST_DEVICE constexpr IndexRange range_from(int begin, int count, int end) {
  return {begin, begin + count < end ? begin + count : end};
}

struct ScoreMask {
  int queries = 0;
  int keys = 0;
  bool causal = true;
  int window = 0;  ///< 0: none

  [[nodiscard]] PORTOLAN_HOST_DEVICE constexpr int position(int query) const {
    return query + keys - queries;
  }
  /// Those that a query sees, which may lie past the last query.
  [[nodiscard]] PORTOLAN_HOST_DEVICE constexpr IndexRange keys_of(int query) const {
    const int at = position(query);
    const int begin = window > 0 && at - window + 1 > 0 ? at - window + 1 : 0;
    const int end = is_causal() && at + 1 < keys ? at + 1 : keys;
    return {begin, end};
  }
  /// Those that see a key, which may lie past the last key.
  [[nodiscard]] PORTOLAN_HOST_DEVICE constexpr IndexRange queries_of(int key) const {
    const int at = key - keys + queries;  // the query at the key's position
    const int begin = is_causal() && at > 0 ? at : 0;
    const int end = window > 0 && at + window < queries ? at + window : queries;
    return {begin, end};
  }
  /// Tiles of `tile` keys that some of the queries see.
  [[nodiscard]] PORTOLAN_HOST_DEVICE constexpr IndexRange key_tiles(IndexRange query_range,
                                                                    int tile) const {
    const int begin = keys_of(query_range.begin).begin;
    const int end = keys_of(query_range.end - 1).end;
    if (query_range.size() == 0 || end <= begin) return {0, 0};
    return {begin / tile, (end + tile - 1) / tile};
  }
  /// Tiles of `tile` queries that see some of the keys.
  [[nodiscard]] PORTOLAN_HOST_DEVICE constexpr IndexRange query_tiles(IndexRange key_range,
                                                                      int tile) const {
    const int begin = queries_of(key_range.begin).begin;
    const int end = queries_of(key_range.end - 1).end;
    if (key_range.size() == 0 || end <= begin) return {0, 0};
    return {begin / tile, (end + tile - 1) / tile};
  }
  /// Whether some of the queries do not see some of the keys, keys past the last one included.
  [[nodiscard]] PORTOLAN_HOST_DEVICE constexpr bool hides_keys(IndexRange query_range,
                                                               IndexRange key_range) const {
    return keys_of(query_range.begin).end < key_range.end ||
           keys_of(query_range.end - 1).begin > key_range.begin;
  }
  /// Whether some of the keys are not seen by some of the queries, queries past the last included.
  [[nodiscard]] PORTOLAN_HOST_DEVICE constexpr bool hides_queries(IndexRange key_range,
                                                                  IndexRange query_range) const {
    return queries_of(key_range.begin).end < query_range.end ||
           queries_of(key_range.end - 1).begin > query_range.begin;
  }

 private:
  [[nodiscard]] PORTOLAN_HOST_DEVICE constexpr bool is_causal() const {
    return causal || window > 0;
  }
};

/// Where one batch entry or packed sequence lies.
struct AttentionEntry {
  ScoreMask mask;
  std::int64_t entry = 0;      ///< of the batch; 0 if packed
  std::int64_t query_row = 0;  ///< first row of a packed sequence, else 0
  std::int64_t key_row = 0;

  PORTOLAN_HOST_DEVICE constexpr AttentionEntry(const AttentionShape& shape, int index)
      : mask{static_cast<int>(shape.query_tokens), static_cast<int>(shape.key_tokens), shape.causal,
             static_cast<int>(shape.window)},
        entry(index) {
    if (shape.query_offsets == nullptr) return;
    entry = 0;
    query_row = shape.query_offsets[index];
    key_row = shape.key_offsets[index];
    mask.queries = static_cast<int>(shape.query_offsets[index + 1] - query_row);
    mask.keys = static_cast<int>(shape.key_offsets[index + 1] - key_row);
  }

  /// Elements from the start of the tensor to the first query of a head.
  [[nodiscard]] PORTOLAN_HOST_DEVICE constexpr std::int64_t query_offset(
      const AttentionStrides& strides, int head) const {
    return entry * strides.batch + query_row * strides.token + head * strides.head;
  }
  [[nodiscard]] PORTOLAN_HOST_DEVICE constexpr std::int64_t key_offset(
      const AttentionStrides& strides, int head) const {
    return entry * strides.batch + key_row * strides.token + head * strides.head;
  }
  /// The same in log_sum_exp and delta.
  [[nodiscard]] PORTOLAN_HOST_DEVICE constexpr std::int64_t row_offset(std::int64_t stride,
                                                                       std::int64_t heads,
                                                                       int head) const {
    return (entry * heads + head) * stride + query_row;
  }
};

}  // namespace portolan::cuda
