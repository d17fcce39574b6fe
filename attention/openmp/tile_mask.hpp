// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "attention/mask.hpp"
#include "attention/openmp/query_tiles.hpp"
#include "attention/openmp/tile_operations.hpp"

namespace portolan::flash {

/// One bit for each score of a tile: rows of kKeyTile columns, the first column lowest.
struct alignas(64) TileBits {
  static constexpr int kWords = kKeyTile / 64;

  std::uint64_t rows[kMaximumQueryTile][kWords];

  [[nodiscard]] const std::uint8_t* data() const {
    return reinterpret_cast<const std::uint8_t*>(rows);
  }
};

/// The same with queries as columns.
struct alignas(64) TransposedTileBits {
  std::uint64_t columns[kKeyTile];

  [[nodiscard]] const std::uint8_t* data() const {
    return reinterpret_cast<const std::uint8_t*>(columns);
  }
};
/// Of all kMaximumQueryTile rows, also those that the tile does not have.
void transpose(const TileBits& bits, TransposedTileBits& transposed);

/// Which scores of a tile are computed: causality, window, sequence, padding and blocks as one.
class TileMask {
 public:
  explicit TileMask(const AttentionProblem& problem);

  /// `seen` is written if the answer is partial; rows beyond those of the tile are 0 then.
  [[nodiscard]] TileVisibility look(const HeadGroup& heads, const QueryTile& queries,
                                    const RowTile& keys, TileBits& seen) const;

 private:
  struct Columns {
    std::uint64_t words[TileBits::kWords] = {};
  };
  [[nodiscard]] static Columns columns(std::int64_t begin, std::int64_t end);
  [[nodiscard]] Columns columns_of_blocks(std::int64_t head, std::int64_t block_row,
                                          const RowTile& keys) const;

  const AttentionMask& mask_;
  MaskRule rule_;
};

/// Rows and columns of a tile that hold all that is seen, widened to multiples of 32.
struct TileBox {
  int row_begin = 0;
  int row_end = 0;
  int column_begin = 0;
  int column_end = 0;

  [[nodiscard]] int rows() const { return row_end - row_begin; }
  [[nodiscard]] int columns() const { return column_end - column_begin; }
};
[[nodiscard]] TileBox box_of(const TileBits& seen, int rows);
/// Of a tile of which everything is seen.
[[nodiscard]] TileBox whole_box(int rows, int columns);
/// Sets the bits of that many rows and columns, and clears the others.
void set_rectangle(TileBits& bits, int rows, int columns);

}  // namespace portolan::flash
