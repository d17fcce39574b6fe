// SPDX-License-Identifier: Apache-2.0
#include "attention/mask.hpp"

#include <algorithm>
#include <numeric>

namespace portolan {

bool BlockMap::contains(std::int64_t head, std::int64_t block_row,
                        std::int64_t block_column) const {
  const auto row = static_cast<std::size_t>(head * block_rows + block_row);
  const auto begin = columns.begin() + row_begin[row];
  const auto end = columns.begin() + row_begin[row + 1];
  return std::binary_search(begin, end, static_cast<std::int32_t>(block_column));
}

BlockMap block_map_from_flags(std::int64_t heads, std::int64_t block_rows,
                              std::int64_t block_columns, std::int64_t block_queries,
                              std::int64_t block_keys, const std::uint8_t* flags) {
  BlockMap map{.heads = heads,
               .block_rows = block_rows,
               .block_columns = block_columns,
               .block_queries = block_queries,
               .block_keys = block_keys,
               .row_begin = {0},
               .columns = {}};
  for (std::int64_t row = 0; row < heads * block_rows; ++row) {
    for (std::int64_t column = 0; column < block_columns; ++column) {
      if (flags[row * block_columns + column] != 0) {
        map.columns.push_back(static_cast<std::int32_t>(column));
      }
    }
    map.row_begin.push_back(static_cast<std::int32_t>(map.columns.size()));
  }
  return map;
}

std::vector<TokenRun> resolved_key_runs(const AttentionMask& mask, std::int64_t key_tokens) {
  if (!mask.key_runs.empty()) return mask.key_runs;
  return {TokenRun{0, key_tokens}};
}

std::vector<TokenRun> resolved_query_runs(const AttentionMask& mask, std::int64_t query_tokens,
                                          std::int64_t key_tokens) {
  if (!mask.query_runs.empty()) return mask.query_runs;
  const std::vector<TokenRun> keys = resolved_key_runs(mask, key_tokens);
  std::int64_t end = keys.front().position + keys.front().length;
  for (const TokenRun& run : keys) end = std::max(end, run.position + run.length);
  return {TokenRun{end - query_tokens, query_tokens}};
}

std::int64_t visible_scores(const AttentionMask& mask, std::int64_t query_tokens,
                            std::int64_t key_tokens) {
  const MaskRule rule(mask);
  const std::vector<TokenRun> keys = resolved_key_runs(mask, key_tokens);
  std::int64_t scores = 0;
  for (const TokenRun& queries : resolved_query_runs(mask, query_tokens, key_tokens)) {
    for (std::int64_t i = 0; i < queries.length; ++i) {
      const std::int64_t query = queries.position + i;
      for (const TokenRun& run : keys) {
        if (run.sequence != queries.sequence) continue;
        const std::int64_t first = rule.first_key(query, run.position);
        const std::int64_t end = rule.end_key(query, run.position + run.length);
        scores += std::max<std::int64_t>(0, end - first);
      }
    }
  }
  return scores;
}

BlockMap transposed(const BlockMap& map) {
  BlockMap result{.heads = map.heads,
                  .block_rows = map.block_columns,
                  .block_columns = map.block_rows,
                  .block_queries = map.block_keys,
                  .block_keys = map.block_queries,
                  .row_begin = {0},
                  .columns = std::vector<std::int32_t>(map.columns.size())};
  // Counting sort: going through block rows in order leaves each new row ascending.
  result.row_begin.resize(static_cast<std::size_t>(map.heads * map.block_columns + 1), 0);
  const auto for_each_block = [&map](const auto& function) {
    for (std::int64_t row = 0; row < map.heads * map.block_rows; ++row) {
      const std::int64_t head = row / map.block_rows;
      for (std::int32_t i = map.row_begin[row]; i < map.row_begin[row + 1]; ++i) {
        function(head * map.block_columns + map.columns[i], row % map.block_rows);
      }
    }
  };
  for_each_block([&](std::int64_t row, std::int64_t) { ++result.row_begin[row + 1]; });
  std::partial_sum(result.row_begin.begin(), result.row_begin.end(), result.row_begin.begin());
  std::vector<std::int32_t> next(result.row_begin.begin(), result.row_begin.end() - 1);
  for_each_block([&](std::int64_t row, std::int64_t column) {
    result.columns[next[row]++] = static_cast<std::int32_t>(column);
  });
  return result;
}

std::vector<RowTile> split_runs(std::span<const TokenRun> runs, std::int64_t tile,
                                std::int64_t block) {
  std::vector<RowTile> tiles;
  std::int64_t first = 0;
  for (const TokenRun& run : runs) {
    for (std::int64_t begin = 0; begin < run.length;) {
      std::int64_t length = std::min(tile, run.length - begin);
      if (block > 0) length = std::min(length, block - (first + begin) % block);
      tiles.push_back({first + begin, run.position + begin, length, run.sequence});
      begin += length;
    }
    first += run.length;
  }
  return tiles;
}

}  // namespace portolan
