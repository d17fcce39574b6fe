// SPDX-License-Identifier: Apache-2.0
#include "attention/openmp/tile_mask.hpp"

#include <algorithm>
#include <bit>

namespace portolan::flash {
namespace {

constexpr int kBoxStep = 32;

constexpr int round_down(int value) { return value / kBoxStep * kBoxStep; }
constexpr int round_up(int value) { return round_down(value + kBoxStep - 1); }

/// Bits [begin, end) of a word, both within [0, 64].
constexpr std::uint64_t bits_between(std::int64_t begin, std::int64_t end) {
  const auto below = [](std::int64_t bit) {
    return bit >= 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << bit) - 1;
  };
  return begin >= end ? 0 : below(end) & ~below(begin);
}

/// Transposes a square of 64 x 64 bits in place: swaps ever smaller blocks off the diagonal
/// (Warren, Hacker's Delight, 2nd edition, section 7-3).
void transpose_square(std::uint64_t* rows) {
  std::uint64_t mask = 0x00000000FFFFFFFFU;
  for (int distance = 32; distance != 0; distance >>= 1, mask ^= mask << distance) {
    for (int row = 0; row < 64; row = (row + distance + 1) & ~distance) {
      const std::uint64_t swapped = ((rows[row] >> distance) ^ rows[row + distance]) & mask;
      rows[row] ^= swapped << distance;
      rows[row + distance] ^= swapped;
    }
  }
}

}  // namespace

void transpose(const TileBits& bits, TransposedTileBits& transposed) {
  static_assert(kMaximumQueryTile == 64);
  for (int word = 0; word < TileBits::kWords; ++word) {
    std::uint64_t* square = transposed.columns + 64 * word;
    for (int row = 0; row < 64; ++row) square[row] = bits.rows[row][word];
    transpose_square(square);
  }
}

TileMask::TileMask(const AttentionProblem& problem) : mask_(problem.mask), rule_(problem.mask) {}

TileMask::Columns TileMask::columns(std::int64_t begin, std::int64_t end) {
  Columns result;
  for (int word = 0; word < TileBits::kWords; ++word) {
    result.words[word] = bits_between(std::clamp<std::int64_t>(begin - 64 * word, 0, 64),
                                      std::clamp<std::int64_t>(end - 64 * word, 0, 64));
  }
  return result;
}

TileMask::Columns TileMask::columns_of_blocks(std::int64_t head, std::int64_t block_row,
                                              const RowTile& keys) const {
  const BlockMap& map = *mask_.blocks;
  const auto row = static_cast<std::size_t>(head * map.block_rows + block_row);
  const auto end = map.columns.begin() + map.row_begin[row + 1];
  Columns result;
  for (auto block = std::lower_bound(map.columns.begin() + map.row_begin[row], end,
                                     keys.row / map.block_keys);
       block != end && *block * map.block_keys < keys.row + keys.length; ++block) {
    const std::int64_t first = *block * map.block_keys - keys.row;
    const Columns seen = columns(first, first + map.block_keys);
    for (int word = 0; word < TileBits::kWords; ++word) result.words[word] |= seen.words[word];
  }
  return result;
}

TileVisibility TileMask::look(const HeadGroup& heads, const QueryTile& queries, const RowTile& keys,
                              TileBits& seen) const {
  const TileVisibility by_position = tile_visibility(rule_, queries.tokens(), keys);
  if (by_position == TileVisibility::none) return TileVisibility::none;
  std::int64_t first = 0;
  std::int64_t end = keys.length;
  if (!mask_.key_ranges.empty()) {
    const KeyRange& range = mask_.key_ranges[static_cast<std::size_t>(heads.batch)];
    first = std::max(first, range.begin - keys.row);
    end = std::min(end, range.end - keys.row);
    if (first >= end) return TileVisibility::none;
  }
  const bool padded = first > 0 || end < keys.length;
  if (by_position == TileVisibility::full && !padded && !mask_.blocks) return TileVisibility::full;

  const Columns all = columns(0, keys.length);
  bool some = false;
  bool every = true;
  Columns of_blocks = all;
  std::int64_t block_row = -1;
  for (int row = 0; row < queries.rows; ++row) {
    const std::int64_t position = queries.position(row);
    if (mask_.blocks && queries.token(row) / mask_.blocks->block_queries != block_row) {
      block_row = queries.token(row) / mask_.blocks->block_queries;
      of_blocks = columns_of_blocks(heads.first_head + queries.head(row), block_row, keys);
    }
    const Columns of_row = columns(
        std::max(first, rule_.first_key(position, keys.position) - keys.position),
        std::min(end, rule_.end_key(position, keys.position + keys.length) - keys.position));
    for (int word = 0; word < TileBits::kWords; ++word) {
      const std::uint64_t bits = of_row.words[word] & of_blocks.words[word];
      seen.rows[row][word] = bits;
      some = some || bits != 0;
      every = every && bits == all.words[word];
    }
  }
  if (!some) return TileVisibility::none;
  if (every) return TileVisibility::full;
  for (int row = queries.rows; row < kMaximumQueryTile; ++row) {
    std::fill_n(seen.rows[row], TileBits::kWords, 0);
  }
  return TileVisibility::partial;
}

TileBox box_of(const TileBits& seen, int rows) {
  std::uint64_t columns[TileBits::kWords] = {};
  int row_begin = rows;
  int row_end = 0;
  for (int row = 0; row < rows; ++row) {
    bool some = false;
    for (int word = 0; word < TileBits::kWords; ++word) {
      columns[word] |= seen.rows[row][word];
      some = some || seen.rows[row][word] != 0;
    }
    if (!some) continue;
    row_begin = std::min(row_begin, row);
    row_end = row + 1;
  }
  int column_begin = kKeyTile;
  int column_end = 0;
  for (int word = 0; word < TileBits::kWords; ++word) {
    if (columns[word] == 0) continue;
    column_begin = std::min(column_begin, 64 * word + std::countr_zero(columns[word]));
    column_end = 64 * word + 64 - std::countl_zero(columns[word]);
  }
  return {round_down(row_begin), round_up(row_end), round_down(column_begin), round_up(column_end)};
}

TileBox whole_box(int rows, int columns) { return {0, round_up(rows), 0, round_up(columns)}; }

void set_rectangle(TileBits& bits, int rows, int columns) {
  for (int row = 0; row < kMaximumQueryTile; ++row) {
    for (int word = 0; word < TileBits::kWords; ++word) {
      bits.rows[row][word] =
          row < rows ? bits_between(0, std::clamp(columns - 64 * word, 0, 64)) : 0;
    }
  }
}

}  // namespace portolan::flash
