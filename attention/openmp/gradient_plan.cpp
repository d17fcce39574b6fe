// SPDX-License-Identifier: Apache-2.0
#include "attention/openmp/gradient_plan.hpp"

#include <algorithm>

#include "attention/openmp/flash_plan.hpp"
#include "attention/openmp/scratch.hpp"

namespace portolan::flash {
namespace {

// Idle time above which threads share key heads.
constexpr double kTolerableImbalance = 1.1;

}  // namespace

GradientPlan::GradientPlan(const AttentionProblem& problem, const AttentionTiles& tiles,
                           int available_threads)
    : format(operand_format(problem.q.dtype())),
      head_dim(static_cast<int>(problem.q.dim(3))),
      query_dim(padded_query_dim(head_dim, format)),
      value_dim(padded_value_dim(head_dim)),
      key_heads(problem.q.dim(0) * problem.k.dim(2)),
      key_tiles(problem, kKeyTile),
      query_tiles(split_queries(problem, kGradientQueryTile)),
      chunk_tiles(std::clamp<std::int64_t>(std::ssize(query_tiles), 1, tiles.backward_chunk)),
      chunks((std::ssize(query_tiles) + chunk_tiles - 1) / chunk_tiles) {
  list_visits();
  const double products = 10.0 * kKeyTile * kGradientQueryTile * head_dim *
                          static_cast<double>(chunk_tiles) * static_cast<double>(visits_.size()) *
                          static_cast<double>(key_heads);
  const int useful = useful_threads(products, false, available_threads);
  const auto idle = [&](std::int64_t count) {
    const std::int64_t rounds = (key_heads + count - 1) / count;
    return static_cast<double>(rounds * count) / static_cast<double>(key_heads);
  };
  chunks_side_by_side = useful > 1 && key_heads > 0 && idle(useful) > kTolerableImbalance;
  const std::int64_t tasks = chunks_side_by_side ? key_heads * chunks : key_heads;
  threads = static_cast<int>(std::clamp<std::int64_t>(tasks, 1, useful));
  place_key_tiles();
  place_scratch();
}

std::span<const QueryTile> GradientPlan::tiles_of(std::int64_t chunk) const {
  const std::int64_t begin = chunk * chunk_tiles;
  const std::int64_t count = std::min(chunk_tiles, std::ssize(query_tiles) - begin);
  return std::span(query_tiles)
      .subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(count));
}

std::span<const GradientPlan::Visit> GradientPlan::visits_of(std::int64_t chunk) const {
  const std::size_t begin = visits_begin_[static_cast<std::size_t>(chunk)];
  const std::size_t end = visits_begin_[static_cast<std::size_t>(chunk) + 1];
  return std::span(visits_).subspan(begin, end - begin);
}

void GradientPlan::list_visits() {
  visitors_.assign(static_cast<std::size_t>(key_tiles.size()), 0);
  visits_begin_ = {0};
  std::vector<TileRange> ranges;
  std::vector<std::int32_t> tiles;
  for (std::int64_t chunk = 0; chunk < chunks; ++chunk) {
    ranges.clear();
    tiles.clear();
    for (const QueryTile& tile : tiles_of(chunk)) key_tiles.find_seen(tile.tokens(), ranges);
    for (const TileRange& range : ranges) {
      for (std::int64_t tile = range.begin; tile < range.end; ++tile) {
        tiles.push_back(static_cast<std::int32_t>(tile));
      }
    }
    std::ranges::sort(tiles);
    const auto repeated = std::ranges::unique(tiles);
    tiles.erase(repeated.begin(), repeated.end());
    for (const std::int32_t tile : tiles) {
      visits_.push_back({tile, visitors_[static_cast<std::size_t>(tile)]++});
    }
    visits_begin_.push_back(visits_.size());
  }
}

void GradientPlan::place_key_tiles() {
  key_slots_.assign(visitors_.size(), 0);
  std::vector<std::int32_t> free;
  for (const Visit& visit : visits_) {
    std::int32_t& slot = key_slots_[static_cast<std::size_t>(visit.key_tile)];
    if (visit.turn == 0) {
      slot = free.empty() ? key_slot_count_++ : free.back();
      if (!free.empty()) free.pop_back();
    }
    // Chunks side by side do not visit in this order.
    if (!chunks_side_by_side && visit.turn + 1 == visitors(visit.key_tile)) free.push_back(slot);
  }
}

void GradientPlan::place_scratch() {
  const auto bytes = [](int rows, int columns, std::size_t element) {
    return static_cast<std::size_t>(rows) * static_cast<std::size_t>(columns) * element;
  };
  const std::size_t element = element_bytes();
  ScratchLayout of_keys;
  key_scratch.keys = of_keys.place(bytes(kKeyTile, query_dim, element));
  key_scratch.values = of_keys.place(bytes(kKeyTile, query_dim, element));
  key_scratch.transposed_keys = of_keys.place(bytes(kKeyTile, head_dim, element));
  key_scratch.dk = of_keys.place(bytes(kKeyTile, value_dim, sizeof(float)));
  key_scratch.dv = of_keys.place(bytes(kKeyTile, value_dim, sizeof(float)));
  key_scratch.bytes = of_keys.bytes();

  constexpr int kRows = kGradientQueryTile;
  ScratchLayout of_queries;
  query_scratch.transposed_queries = of_queries.place(bytes(kRows, query_dim, element));
  query_scratch.transposed_slopes = of_queries.place(bytes(kRows, query_dim, element));
  query_scratch.queries = of_queries.place(bytes(kRows, value_dim, element));
  query_scratch.slopes = of_queries.place(bytes(kRows, value_dim, element));
  query_scratch.transposed_dq = of_queries.place(bytes(kRows, head_dim, sizeof(float)));
  query_scratch.log_sum_exp = of_queries.place(bytes(kRows, 1, sizeof(float)));
  query_scratch.delta = of_queries.place(bytes(kRows, 1, sizeof(float)));
  query_scratch.bytes = of_queries.bytes();

  constexpr std::size_t kScores = static_cast<std::size_t>(kRows) * kKeyTile;
  const std::size_t pairs = format == OperandFormat::pair ? kScores * sizeof(BFloat16) : 0;
  ScratchLayout of_thread;
  thread_scratch.query_tiles = of_thread.place(chunk_tiles * query_scratch.bytes);
  thread_scratch.scores = of_thread.place(kScores * sizeof(float));
  thread_scratch.weight_slopes = of_thread.place(kScores * sizeof(float));
  thread_scratch.pair_weights = of_thread.place(pairs);
  thread_scratch.pair_slopes = of_thread.place(pairs);
  thread_scratch.packed_slopes = of_thread.place(pairs);
  // A transposed key tile, or dq of a query tile in rows of a multiple of 32.
  thread_scratch.transposed = of_thread.place(bytes(kKeyTile, head_dim + 32, sizeof(float)));
  thread_scratch.bytes = of_thread.bytes();
}

std::size_t GradientPlan::workspace_bytes() const {
  return key_scratch_bytes() + static_cast<std::size_t>(threads) * thread_scratch.bytes;
}

}  // namespace portolan::flash
