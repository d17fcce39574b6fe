// SPDX-License-Identifier: Apache-2.0
#include "attention/block_patterns.hpp"

#include <algorithm>

#include "core/error.hpp"

namespace portolan {
namespace {

/// Block columns that hold the positions of a block row's queries; may lie outside of the map.
struct Diagonal {
  std::int64_t first;
  std::int64_t last;
};

std::int64_t blocks_of(std::int64_t tokens, std::int64_t block) {
  return (tokens + block - 1) / block;
}

std::int64_t floor_divide(std::int64_t value, std::int64_t divisor) {
  return value >= 0 ? value / divisor : -((divisor - 1 - value) / divisor);
}

/// The blocks for which `listed(diagonal, column)`, the same for all heads.
BlockMap blocks_where(const BlockGrid& grid, const auto& listed) {
  require(grid.heads > 0 && grid.block_queries > 0 && grid.block_keys > 0,
          "block pattern: heads and blocks must not be empty, found {} heads of {} x {}",
          grid.heads, grid.block_queries, grid.block_keys);
  const std::int64_t rows = blocks_of(grid.query_tokens, grid.block_queries);
  const std::int64_t columns = blocks_of(grid.key_tokens, grid.block_keys);
  std::vector<std::uint8_t> flags;
  for (std::int64_t head = 0; head < grid.heads; ++head) {
    for (std::int64_t row = 0; row < rows; ++row) {
      const std::int64_t begin = row * grid.block_queries;
      const std::int64_t end = std::min(begin + grid.block_queries, grid.query_tokens);
      const std::int64_t shift = grid.key_tokens - grid.query_tokens;
      const Diagonal diagonal{floor_divide(begin + shift, grid.block_keys),
                              floor_divide(end - 1 + shift, grid.block_keys)};
      for (std::int64_t column = 0; column < columns; ++column) {
        flags.push_back(listed(diagonal, column) ? 1 : 0);
      }
    }
  }
  return block_map_from_flags(grid.heads, rows, columns, grid.block_queries, grid.block_keys,
                              flags.data());
}

}  // namespace

BlockMap local_blocks(const BlockGrid& grid, std::int64_t neighbours) {
  require(neighbours >= 0, "block pattern: the number of neighbours must not be negative, found {}",
          neighbours);
  return blocks_where(grid, [&](const Diagonal& diagonal, std::int64_t column) {
    return column >= diagonal.first - neighbours && column <= diagonal.last + neighbours;
  });
}

BlockMap strided_blocks(const BlockGrid& grid, std::int64_t stride) {
  require(stride > 0, "block pattern: the stride must be positive, found {}", stride);
  return blocks_where(grid, [&](const Diagonal& diagonal, std::int64_t column) {
    if (column < diagonal.first) return (diagonal.first - column) % stride == 0;
    return column <= diagonal.last || (column - diagonal.last) % stride == 0;
  });
}

BlockMap global_blocks(const BlockGrid& grid, std::int64_t columns) {
  require(columns >= 0, "block pattern: the number of columns must not be negative, found {}",
          columns);
  return blocks_where(grid, [&](const Diagonal& diagonal, std::int64_t column) {
    const bool row_sees_all = diagonal.first < columns && diagonal.last >= 0;
    return column < columns || row_sees_all;
  });
}

BlockMap united(const BlockMap& a, const BlockMap& b) {
  require(a.heads == b.heads && a.block_rows == b.block_rows &&
              a.block_columns == b.block_columns && a.block_queries == b.block_queries &&
              a.block_keys == b.block_keys,
          "block pattern: maps of [{}, {}, {}] and [{}, {}, {}] blocks cannot be united", a.heads,
          a.block_rows, a.block_columns, b.heads, b.block_rows, b.block_columns);
  BlockMap result = a;
  result.row_begin = {0};
  result.columns.clear();
  for (std::size_t row = 0; row + 1 < a.row_begin.size(); ++row) {
    std::set_union(a.columns.begin() + a.row_begin[row], a.columns.begin() + a.row_begin[row + 1],
                   b.columns.begin() + b.row_begin[row], b.columns.begin() + b.row_begin[row + 1],
                   std::back_inserter(result.columns));
    result.row_begin.push_back(static_cast<std::int32_t>(result.columns.size()));
  }
  return result;
}

}  // namespace portolan
