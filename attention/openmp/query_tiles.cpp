// SPDX-License-Identifier: Apache-2.0
#include "attention/openmp/query_tiles.hpp"

#include <algorithm>

namespace portolan::flash {
namespace {

std::int64_t heads_of_tile(const AttentionProblem& problem) {
  return problem.mask.blocks ? 1 : problem.q.dim(2) / problem.k.dim(2);
}

void* element(const Tensor& tensor, std::int64_t batch, std::int64_t token, std::int64_t head) {
  const Shape& strides = tensor.strides();
  const std::int64_t offset = batch * strides[0] + token * strides[1] + head * strides[2];
  return tensor.raw() + offset * static_cast<std::int64_t>(size_of(tensor.dtype()));
}

}  // namespace

std::vector<QueryTile> split_queries(const AttentionProblem& problem, int tile_rows) {
  const std::int64_t group = problem.q.dim(2) / problem.k.dim(2);
  const std::int64_t heads = heads_of_tile(problem);
  const std::vector<TokenRun> runs =
      resolved_query_runs(problem.mask, problem.q.dim(1), problem.k.dim(1));
  std::vector<QueryTile> tiles;
  for (std::int64_t head = 0; head < group; head += heads) {
    std::int64_t token = 0;
    for (const TokenRun& run : runs) {
      const RowTile tokens{token, run.position, run.length, run.sequence};
      for (std::int64_t row = 0; row < run.length * heads; row += tile_rows) {
        const auto rows = std::min<std::int64_t>(tile_rows, run.length * heads - row);
        tiles.push_back({tokens, head, heads, row, static_cast<int>(rows)});
      }
      token += run.length;
    }
  }
  return tiles;
}

std::int64_t tokens_of_tile(const AttentionProblem& problem, int tile_rows) {
  const std::int64_t heads = heads_of_tile(problem);
  return tile_rows % heads == 0 ? tile_rows / heads : (tile_rows - 2) / heads + 2;
}

RowPointers::RowPointers(const Tensor& tensor, const HeadGroup& heads, const QueryTile& tile)
    : dtype_(tensor.dtype()), count_(tile.rows), head_dim_(static_cast<int>(tensor.dim(3))) {
  for (int row = 0; row < tile.rows; ++row) {
    rows_[static_cast<std::size_t>(row)] =
        element(tensor, heads.batch, tile.token(row), heads.first_head + tile.head(row));
  }
}

RowPointers::RowPointers(const Tensor& tensor, const HeadGroup& heads, const RowTile& tile)
    : dtype_(tensor.dtype()),
      count_(static_cast<int>(tile.length)),
      head_dim_(static_cast<int>(tensor.dim(3))) {
  auto* first = static_cast<std::byte*>(element(tensor, heads.batch, tile.row, heads.key_head));
  const std::int64_t stride =
      tensor.strides()[1] * static_cast<std::int64_t>(size_of(tensor.dtype()));
  for (int row = 0; row < count_; ++row)
    rows_[static_cast<std::size_t>(row)] = first + row * stride;
}

float& row_value(const Tensor& tensor, const HeadGroup& heads, const QueryTile& tile, int row) {
  const Shape& strides = tensor.strides();
  return tensor
      .data<float>()[heads.batch * strides[0] + (heads.first_head + tile.head(row)) * strides[1] +
                     tile.token(row) * strides[2]];
}

KeyTiles::KeyTiles(const AttentionProblem& problem, std::int64_t tile_keys)
    : rule_(problem.mask), tile_keys_(tile_keys) {
  const std::vector<TokenRun> runs = resolved_key_runs(problem.mask, problem.k.dim(1));
  tiles_ = split_runs(runs, tile_keys);
  std::int64_t tile = 0;
  for (const TokenRun& run : runs) {
    runs_.push_back({run, tile});
    tile += (run.length + tile_keys - 1) / tile_keys;
  }
  std::ranges::stable_sort(runs_, {}, [](const Run& run) { return run.tokens.sequence; });
}

void KeyTiles::find_seen(const RowTile& queries, std::vector<TileRange>& ranges) const {
  if (queries.length == 0) return;
  const auto runs = std::ranges::equal_range(runs_, queries.sequence, {},
                                             [](const Run& run) { return run.tokens.sequence; });
  const std::int64_t last_query = queries.position + queries.length - 1;
  for (const Run& run : runs) {
    const std::int64_t begin = run.tokens.position;
    const std::int64_t first = rule_.first_key(queries.position, begin);
    const std::int64_t end = rule_.end_key(last_query, begin + run.tokens.length);
    if (first >= end) continue;
    ranges.push_back({run.first_tile + (first - begin) / tile_keys_,
                      run.first_tile + (end - 1 - begin) / tile_keys_ + 1});
  }
}

}  // namespace portolan::flash
