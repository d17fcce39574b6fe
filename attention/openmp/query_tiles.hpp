// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "attention/mask.hpp"
#include "attention/openmp/tile_operations.hpp"
#include "attention/problem.hpp"

namespace portolan::flash {

/// Rows of one run that are handled together, of one or all of the query heads that share a key
/// head. Of several heads the rows are interleaved: row r of a run is head r % heads of its token
/// r / heads. So a tile spans few positions, which keeps the part of the score matrix that a causal
/// mask wastes small, and short queries fill tiles.
struct QueryTile {
  RowTile run;  ///< of which the tile is a part: of each head
  std::int64_t first_head = 0;
  std::int64_t heads = 1;
  std::int64_t first_row = 0;
  int rows = 0;

  [[nodiscard]] std::int64_t token(int row) const { return run.row + (first_row + row) / heads; }
  [[nodiscard]] std::int64_t position(int row) const {
    return run.position + (first_row + row) / heads;
  }
  [[nodiscard]] std::int64_t head(int row) const { return first_head + (first_row + row) % heads; }
  /// The tokens that its rows belong to.
  [[nodiscard]] RowTile tokens() const {
    return {token(0), position(0), token(rows - 1) - token(0) + 1, run.sequence};
  }
};

/// Cuts the queries of one key head into tiles of at most `tile_rows` rows. Where a block map tells
/// heads apart, each tile is of one head.
[[nodiscard]] std::vector<QueryTile> split_queries(const AttentionProblem& problem, int tile_rows);
/// Tokens of one head that a tile of split_queries() has at most.
[[nodiscard]] std::int64_t tokens_of_tile(const AttentionProblem& problem, int tile_rows);

/// Queries and keys of one key head of one batch entry.
struct HeadGroup {
  HeadGroup(const AttentionProblem& problem, std::int64_t index)
      : batch(index / problem.k.dim(2)),
        key_head(index % problem.k.dim(2)),
        first_head(key_head * (problem.q.dim(2) / problem.k.dim(2))) {}

  std::int64_t batch;
  std::int64_t key_head;
  std::int64_t first_head;  ///< of the queries
};

/// Where the rows of a tile start. At most kMaximumTileRows.
class RowPointers {
 public:
  /// Of `tensor` [batch, tokens, query heads, head_dim].
  RowPointers(const Tensor& tensor, const HeadGroup& heads, const QueryTile& tile);
  /// Of `tensor` [batch, tokens, key heads, head_dim].
  RowPointers(const Tensor& tensor, const HeadGroup& heads, const RowTile& tile);

  [[nodiscard]] SourceRows source() const { return {rows_.data(), dtype_, count_, head_dim_}; }
  [[nodiscard]] void* const* data() const { return rows_.data(); }

 private:
  std::array<void*, kMaximumTileRows> rows_;
  DType dtype_;
  int count_;
  int head_dim_;
};

/// The element of `tensor` [batch, query heads, tokens] f32 that belongs to a row of a tile.
[[nodiscard]] float& row_value(const Tensor& tensor, const HeadGroup& heads, const QueryTile& tile,
                               int row);

/// Tiles [begin, end) of a list.
struct TileRange {
  std::int64_t begin = 0;
  std::int64_t end = 0;
};

/// The key tiles of a problem, and which of them queries see.
class KeyTiles {
 public:
  KeyTiles(const AttentionProblem& problem, std::int64_t tile_keys);

  [[nodiscard]] std::int64_t size() const { return std::ssize(tiles_); }
  [[nodiscard]] const RowTile& operator[](std::int64_t index) const {
    return tiles_[static_cast<std::size_t>(index)];
  }
  /// Appends the tiles of which some query of `queries` sees some key, apart from padding and
  /// blocks, in ascending order. Takes no longer for tiles that are not seen.
  void find_seen(const RowTile& queries, std::vector<TileRange>& ranges) const;

 private:
  struct Run {
    TokenRun tokens;
    std::int64_t first_tile = 0;
  };

  MaskRule rule_;
  std::int64_t tile_keys_;
  std::vector<RowTile> tiles_;
  std::vector<Run> runs_;  // by sequence, those of one sequence in the order of rows
};

}  // namespace portolan::flash
