// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "attention/attention.hpp"
#include "attention/mask.hpp"
#include "attention/openmp/tile_operations.hpp"

namespace portolan::flash {

/// Up to kQueryTile rows of one run. The query heads that share a key head are interleaved: row r
/// of a run is head r % group of its token r / group. So a tile spans few positions, which keeps
/// the part of the score matrix that a causal mask wastes small, and short queries fill tiles.
struct QueryTile {
  std::int64_t token = 0;     ///< row of the tensor where the run starts
  std::int64_t position = 0;  ///< of that token
  std::int64_t first_row = 0;
  int rows = 0;
};

/// How a problem is cut up. Nothing that the results depend on depends on the number of threads.
///
/// A task is one chunk of query tiles of one key head. It takes the keys in blocks that fit the
/// level 2 cache together with what they are multiplied with, packs a block, then runs its query
/// tiles over it. Chunks of the same head pack the same keys again; they are large enough for that
/// not to matter, and no thread ever waits for another.
struct FlashPlan {
  FlashPlan(const AttentionProblem& problem, int available_threads);

  OperandFormat format = OperandFormat::single;
  MaskRule rule;
  std::vector<QueryTile> query_tiles;
  std::vector<RowTile> key_tiles;
  std::int64_t group = 1;      ///< query heads per key head
  std::int64_t key_heads = 1;  ///< times batch
  int query_dim = 0;           ///< head_dim padded for queries and keys
  int value_dim = 0;           ///< head_dim padded for values and out
  int chunk_tiles = 1;         ///< at most, query tiles
  int block_tiles = 1;         ///< key tiles
  std::int64_t chunks = 0;     ///< per key head
  int threads = 1;

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

  [[nodiscard]] std::int64_t tasks() const { return chunks * key_heads; }
  [[nodiscard]] std::size_t element_bytes() const { return format == OperandFormat::pair ? 2 : 4; }
  [[nodiscard]] std::size_t key_tile_bytes() const {
    return static_cast<std::size_t>(kKeyTile * query_dim) * element_bytes();
  }
  [[nodiscard]] std::size_t value_tile_bytes() const {
    return static_cast<std::size_t>(kKeyTile * value_dim) * element_bytes();
  }
  [[nodiscard]] std::int64_t position(const QueryTile& tile, int row) const {
    return tile.position + (tile.first_row + row) / group;
  }

 private:
  void place_scratch();
};

/// The format in which tiles of a dtype are multiplied on this CPU.
[[nodiscard]] OperandFormat operand_format(DType dtype);

}  // namespace portolan::flash
