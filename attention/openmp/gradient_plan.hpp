// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "attention/openmp/query_tiles.hpp"
#include "attention/openmp/tile_operations.hpp"

namespace portolan::flash {

/// How the backward pass of a problem is cut up.
///
/// A chunk of query tiles of one key head visits the key tiles that it sees, adding to dk and dv of
/// each and to its own dq: five products a tile, nothing computed twice. Chunks add to a key tile
/// in ascending order whoever runs them, so that results do not depend on the number of threads:
/// either one thread runs all chunks of a key head, or, where there are too few key heads for that,
/// threads run chunks side by side and each waits at a key tile for the chunk before, which is
/// usually one key tile ahead.
struct GradientPlan {
  GradientPlan(const AttentionProblem& problem, const AttentionTiles& tiles, int available_threads);

  /// A chunk's visit to a key tile, the `turn`-th of all chunks.
  struct Visit {
    std::int32_t key_tile = 0;
    std::int32_t turn = 0;
  };

  OperandFormat format = OperandFormat::single;
  int head_dim = 0;
  int query_dim = 0;           ///< head_dim padded for products over it
  int value_dim = 0;           ///< head_dim padded for rows of vectors
  std::int64_t key_heads = 0;  ///< times batch
  KeyTiles key_tiles;
  std::vector<QueryTile> query_tiles;
  std::int64_t chunk_tiles = 1;  ///< query tiles of a chunk
  std::int64_t chunks = 0;
  int threads = 1;
  bool chunks_side_by_side = false;

  [[nodiscard]] std::span<const QueryTile> tiles_of(std::int64_t chunk) const;
  [[nodiscard]] std::span<const Visit> visits_of(std::int64_t chunk) const;
  /// Chunks that visit a key tile.
  [[nodiscard]] std::int32_t visitors(std::int64_t key_tile) const {
    return visitors_[static_cast<std::size_t>(key_tile)];
  }
  [[nodiscard]] std::size_t element_bytes() const { return format == OperandFormat::pair ? 2 : 4; }
  /// Key heads that are worked on at a time.
  [[nodiscard]] std::int64_t key_heads_at_once() const {
    return chunks_side_by_side ? key_heads : threads;
  }
  /// Where the scratch of a key tile is among those of its key head. A single thread uses that of
  /// tiles that all their chunks have visited again, so that a window needs little.
  [[nodiscard]] std::int64_t key_slot(std::int64_t key_tile) const {
    return key_slots_[static_cast<std::size_t>(key_tile)];
  }
  [[nodiscard]] std::int64_t key_slots() const { return key_slot_count_; }
  [[nodiscard]] std::size_t key_scratch_bytes() const {
    return static_cast<std::size_t>(key_heads_at_once() * key_slot_count_) * key_scratch.bytes;
  }
  [[nodiscard]] std::size_t workspace_bytes() const;

  /// Parts of the scratch of a key tile, in bytes.
  struct KeyScratch {
    std::size_t keys = 0;
    std::size_t values = 0;
    std::size_t transposed_keys = 0;
    std::size_t dk = 0;
    std::size_t dv = 0;
    std::size_t bytes = 0;
  };
  KeyScratch key_scratch;

  /// Of a query tile.
  struct QueryScratch {
    std::size_t transposed_queries = 0;
    std::size_t transposed_slopes = 0;  ///< of out
    std::size_t queries = 0;
    std::size_t slopes = 0;
    std::size_t transposed_dq = 0;
    std::size_t log_sum_exp = 0;
    std::size_t delta = 0;
    std::size_t bytes = 0;
  };
  QueryScratch query_scratch;

  /// Of a thread, apart from its query tiles.
  struct ThreadScratch {
    std::size_t query_tiles = 0;
    std::size_t scores = 0;
    std::size_t weight_slopes = 0;
    std::size_t pair_weights = 0;
    std::size_t pair_slopes = 0;
    std::size_t packed_slopes = 0;
    std::size_t transposed = 0;
    std::size_t bytes = 0;
  };
  ThreadScratch thread_scratch;

 private:
  void list_visits();
  void place_key_tiles();
  void place_scratch();

  std::vector<Visit> visits_;
  std::vector<std::size_t> visits_begin_;  // [chunks + 1]
  std::vector<std::int32_t> visitors_;
  std::vector<std::int32_t> key_slots_;
  std::int32_t key_slot_count_ = 0;
};

}  // namespace portolan::flash
