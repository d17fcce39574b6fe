// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "attention/problem.hpp"
#include "core/dtype.hpp"

/// Geometry of masks, for kernels: which keys a query sees, and which tiles of the score matrix
/// have to be visited ("smart masking": tiles that the mask hides whole are skipped, indices are
/// compared only in tiles that it cuts).
namespace portolan {

/// The mask without its runs, padding and blocks. A window implies causality.
struct MaskRule {
  bool causal = true;
  std::int64_t window = 0;

  explicit MaskRule(const AttentionMask& mask)
      : causal(mask.causal || mask.window > 0), window(mask.window) {}

  [[nodiscard]] PORTOLAN_HOST_DEVICE bool sees(std::int64_t query, std::int64_t key) const {
    return (!causal || key <= query) && (window == 0 || query - key < window);
  }
  /// Of the keys at positions [begin, end), those that a query at position `query` sees are
  /// [first_key(query, begin), end_key(query, end)), nothing if that is empty.
  [[nodiscard]] PORTOLAN_HOST_DEVICE std::int64_t first_key(std::int64_t query,
                                                            std::int64_t begin) const {
    if (window == 0) return begin;
    const std::int64_t first = query - window + 1;
    return first > begin ? first : begin;
  }
  [[nodiscard]] PORTOLAN_HOST_DEVICE std::int64_t end_key(std::int64_t query,
                                                          std::int64_t end) const {
    return causal && query + 1 < end ? query + 1 : end;
  }
  /// Of the queries at positions [begin, end), those that see a key at position `key`.
  [[nodiscard]] PORTOLAN_HOST_DEVICE std::int64_t first_query(std::int64_t key,
                                                              std::int64_t begin) const {
    return causal && key > begin ? key : begin;
  }
  [[nodiscard]] PORTOLAN_HOST_DEVICE std::int64_t end_query(std::int64_t key,
                                                            std::int64_t end) const {
    return window > 0 && key + window < end ? key + window : end;
  }
};

/// Rows [row, row + length) of a tensor, at positions `position` and following of a sequence.
struct RowTile {
  std::int64_t row = 0;
  std::int64_t position = 0;
  std::int64_t length = 0;
  std::int64_t sequence = 0;
};

enum class TileVisibility : std::uint8_t { none, partial, full };

/// Whether the queries of one tile see none, some or all of the keys of another.
[[nodiscard]] PORTOLAN_HOST_DEVICE inline TileVisibility tile_visibility(const MaskRule& rule,
                                                                         const RowTile& queries,
                                                                         const RowTile& keys) {
  if (queries.length == 0 || keys.length == 0) return TileVisibility::none;
  if (queries.sequence != keys.sequence) return TileVisibility::none;
  // Distances from key back to query take every value between these two in the tile.
  const std::int64_t nearest = queries.position - (keys.position + keys.length - 1);
  const std::int64_t farthest = queries.position + queries.length - 1 - keys.position;
  if (rule.causal && farthest < 0) return TileVisibility::none;
  if (rule.window > 0 && nearest >= rule.window) return TileVisibility::none;
  if (rule.causal && nearest < 0) return TileVisibility::partial;
  if (rule.window > 0 && farthest >= rule.window) return TileVisibility::partial;
  return TileVisibility::full;
}

/// The rows of `tile` that are also rows [begin, end) of its tensor; length 0 if there are none.
[[nodiscard]] PORTOLAN_HOST_DEVICE inline RowTile rows_within(const RowTile& tile,
                                                              std::int64_t begin,
                                                              std::int64_t end) {
  const std::int64_t first = begin > tile.row ? begin : tile.row;
  const std::int64_t last = end < tile.row + tile.length ? end : tile.row + tile.length;
  return {first, tile.position + first - tile.row, last > first ? last - first : 0, tile.sequence};
}

/// Of the keys of one tile, those that any query of another sees: neighbours, because queries are.
[[nodiscard]] PORTOLAN_HOST_DEVICE inline RowTile seen_keys(const MaskRule& rule,
                                                            const RowTile& queries,
                                                            const RowTile& keys) {
  if (queries.length == 0 || queries.sequence != keys.sequence) return rows_within(keys, 0, 0);
  const std::int64_t row = keys.row - keys.position;
  const std::int64_t last = queries.position + queries.length - 1;
  return rows_within(keys, row + rule.first_key(queries.position, keys.position),
                     row + rule.end_key(last, keys.position + keys.length));
}

/// Of the queries of one tile, those that see any key of another.
[[nodiscard]] PORTOLAN_HOST_DEVICE inline RowTile seeing_queries(const MaskRule& rule,
                                                                 const RowTile& queries,
                                                                 const RowTile& keys) {
  if (keys.length == 0 || queries.sequence != keys.sequence) return rows_within(queries, 0, 0);
  const std::int64_t row = queries.row - queries.position;
  const std::int64_t last = keys.position + keys.length - 1;
  return rows_within(queries, row + rule.first_query(keys.position, queries.position),
                     row + rule.end_query(last, queries.position + queries.length));
}

/// Of AttentionProblem::cached_rows, those of a batch entry, clamped to a cache of `key_tokens`;
/// begin == end if there are none.
[[nodiscard]] PORTOLAN_HOST_DEVICE inline KeyRange cached_rows_of(const std::int32_t* cached_rows,
                                                                  std::int64_t entry,
                                                                  std::int64_t key_tokens) {
  const auto clamped = [&](std::int64_t row) {
    return row < 0 ? 0 : row > key_tokens ? key_tokens : row;
  };
  const std::int64_t begin = clamped(cached_rows[2 * entry]);
  const std::int64_t end = clamped(cached_rows[2 * entry + 1]);
  return {begin, end > begin ? end : begin};
}

/// The same map with the roles of queries and keys exchanged.
[[nodiscard]] BlockMap transposed(const BlockMap& map);

/// Cuts runs, which follow each other in the rows of a tensor, into tiles of at most `tile` rows
/// that do not cross from one run into the next, nor, if `block` is given, from one block of rows
/// [i * block, (i + 1) * block) of the tensor into the next.
[[nodiscard]] std::vector<RowTile> split_runs(std::span<const TokenRun> runs, std::int64_t tile,
                                              std::int64_t block = 0);

}  // namespace portolan
