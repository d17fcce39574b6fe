// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "attention/attention.hpp"
#include "attention/openmp/query_tiles.hpp"
#include "attention/openmp/tile_operations.hpp"

namespace portolan::flash {

/// How a problem is cut up. Nothing that the results depend on depends on the number of threads.
///
/// A task is one chunk of query tiles of one key head. It takes the keys in blocks that fit the
/// level 2 cache together with what they are multiplied with, packs a block, then runs its query
/// tiles over it. Chunks of the same head pack the same keys again; they are large enough for that
/// not to matter, and no thread ever waits for another.
///
/// Few queries over many keys, as in decoding, are cut along the keys instead (Flash-Decoding: Dao,
/// Haziza, Massa, Sizov 2023): a task is one split of the keys of a key head with all its queries.
/// Whoever ends a key head's last split merges them, in order.
struct FlashPlan {
  FlashPlan(const AttentionProblem& problem, const AttentionTiles& tiles, int available_threads);

  OperandFormat format = OperandFormat::single;
  std::vector<QueryTile> query_tiles;  ///< of one key head
  KeyTiles key_tiles;
  std::int64_t key_heads = 1;  ///< times batch
  int query_dim = 0;           ///< head_dim padded for queries and keys
  int value_dim = 0;           ///< head_dim padded for values and out
  int chunk_tiles = 1;         ///< at most, query tiles
  int block_tiles = 1;         ///< key tiles
  std::int64_t chunks = 0;     ///< per key head
  int threads = 1;
  /// So few queries that keys and values are best read where they are; then in f32.
  bool in_place = false;
  std::int64_t splits = 1;  ///< of the keys of a key head; more than 1 only if there is one chunk
  std::int64_t split_tiles = 0;

  /// Scratch of one thread, in bytes: where each part starts, and the whole.
  struct Scratch {
    std::size_t queries = 0;
    std::size_t out = 0;
    std::size_t sums = 0;
    std::size_t maximum = 0;
    std::size_t keys = 0;
    std::size_t values = 0;
    std::size_t scores = 0;
    std::size_t weights = 0;
    std::size_t bytes = 0;
  };
  Scratch scratch;

  [[nodiscard]] std::int64_t tasks() const { return chunks * splits * key_heads; }
  [[nodiscard]] std::size_t chunk_rows() const {
    return static_cast<std::size_t>(chunk_tiles) * kQueryTile;
  }
  /// State of the queries after one split of the keys: out, sums and maximum of each row.
  [[nodiscard]] std::size_t split_floats() const {
    return chunk_rows() * static_cast<std::size_t>(value_dim + kSumLanes + 1);
  }
  [[nodiscard]] std::size_t splits_bytes() const {
    return splits > 1 ? static_cast<std::size_t>(tasks()) * split_floats() * sizeof(float) : 0;
  }
  [[nodiscard]] std::size_t workspace_bytes() const {
    return splits_bytes() + scratch.bytes * static_cast<std::size_t>(threads);
  }
  [[nodiscard]] std::size_t element_bytes() const { return format == OperandFormat::pair ? 2 : 4; }
  [[nodiscard]] std::size_t key_tile_bytes() const {
    return static_cast<std::size_t>(kKeyTile * query_dim) * element_bytes();
  }
  [[nodiscard]] std::size_t value_tile_bytes() const {
    return static_cast<std::size_t>(kKeyTile * value_dim) * element_bytes();
  }

 private:
  void share_out(const AttentionProblem& problem, std::int64_t most_tiles, int available_threads);
  void place_scratch();
};

/// Empty if the flash kernels serve the problem under the name of `method`, else why not.
[[nodiscard]] std::string flash_unsupported_reason(const AttentionProblem& problem,
                                                   AttentionMethod method, AttentionPass pass);
/// The format in which tiles of a dtype are multiplied on this CPU.
[[nodiscard]] OperandFormat operand_format(DType dtype);
/// head_dim as products over it want it, and as rows of vectors.
[[nodiscard]] int padded_query_dim(int head_dim, OperandFormat format);
[[nodiscard]] int padded_value_dim(int head_dim);
/// Threads that so many floating-point operations are worth waking; `in_place` as FlashPlan's.
[[nodiscard]] int useful_threads(double operations, bool in_place, int available_threads);

}  // namespace portolan::flash
