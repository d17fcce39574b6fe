// SPDX-License-Identifier: Apache-2.0
#include "attention/openmp/flash_plan.hpp"

#include <algorithm>

#include "attention/openmp/products.hpp"
#include "core/allocator.hpp"

namespace portolan::flash {
namespace {

// Of keys and values, half of a common level 2 cache.
constexpr std::size_t kBlockBytes = std::size_t{512} << 10;
constexpr std::int64_t kMaximumChunkTiles = 64;
// Starting and joining a thread costs some microseconds, as long as this many operations take.
constexpr double kOperationsOfThread = 1 << 20;

constexpr std::int64_t divide_up(std::int64_t value, std::int64_t divisor) {
  return (value + divisor - 1) / divisor;
}
constexpr int round_up(int value, int multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

}  // namespace

OperandFormat operand_format(DType dtype) {
  static const bool pairs = has_products(OperandFormat::pair);
  return dtype == DType::bf16 && pairs ? OperandFormat::pair : OperandFormat::single;
}

FlashPlan::FlashPlan(const AttentionProblem& problem, int available_threads)
    : format(operand_format(problem.q.dtype())), rule(problem.mask) {
  const std::int64_t query_tokens = problem.q.dim(1);
  const std::int64_t key_tokens = problem.k.dim(1);
  const auto head_dim = static_cast<int>(problem.q.dim(3));
  group = problem.q.dim(2) / problem.k.dim(2);
  key_heads = problem.q.dim(0) * problem.k.dim(2);
  query_dim = format == OperandFormat::pair ? round_up(head_dim, 2) : head_dim;
  value_dim = round_up(head_dim, 16);

  std::int64_t token = 0;
  for (const TokenRun& run : resolved_query_runs(problem.mask, query_tokens, key_tokens)) {
    for (std::int64_t row = 0; row < run.length * group; row += kQueryTile) {
      const std::int64_t rows = std::min<std::int64_t>(kQueryTile, run.length * group - row);
      query_tiles.push_back({token, run.position, row, static_cast<int>(rows)});
    }
    token += run.length;
  }
  key_tiles = split_runs(resolved_key_runs(problem.mask, key_tokens), kKeyTile);

  const double operations = 4.0 * static_cast<double>(problem.q.elements() * key_tokens);
  const int useful_threads = static_cast<int>(
      std::clamp(operations / kOperationsOfThread, 1.0, static_cast<double>(available_threads)));

  // Several tasks a thread even out what a causal mask makes uneven; one thread needs none of that.
  const auto tiles = static_cast<std::int64_t>(query_tiles.size());
  const std::int64_t wanted = useful_threads == 1 ? 1 : 4 * useful_threads;
  const std::int64_t tiles_of_task =
      std::clamp<std::int64_t>(divide_up(tiles * key_heads, wanted), 1, kMaximumChunkTiles);
  chunks = divide_up(tiles, tiles_of_task);
  chunk_tiles = chunks == 0 ? 1 : static_cast<int>(divide_up(tiles, chunks));
  threads = static_cast<int>(std::clamp<std::int64_t>(tasks(), 1, useful_threads));

  const std::size_t tile_bytes = key_tile_bytes() + value_tile_bytes();
  block_tiles = static_cast<int>(std::clamp<std::size_t>(
      kBlockBytes / tile_bytes, 1, std::max<std::size_t>(key_tiles.size(), 1)));
  place_scratch();
}

void FlashPlan::place_scratch() {
  std::size_t used = 0;
  const auto place = [&used](std::size_t bytes) {
    constexpr std::size_t kAlignment = CachingAllocator::kAlignment;
    const std::size_t begin = used;
    used += (bytes + kAlignment - 1) / kAlignment * kAlignment;
    return begin;
  };
  const auto rows = static_cast<std::size_t>(chunk_tiles * kQueryTile);
  const auto blocks = static_cast<std::size_t>(block_tiles);
  constexpr std::size_t kScores = static_cast<std::size_t>(kQueryTile) * kKeyTile;
  scratch.queries = place(rows * static_cast<std::size_t>(query_dim) * element_bytes());
  scratch.out = place(rows * static_cast<std::size_t>(value_dim) * sizeof(float));
  scratch.sums = place(rows * kSumLanes * sizeof(float));
  scratch.maximum = place(rows * sizeof(float));
  scratch.keys = place(blocks * key_tile_bytes());
  scratch.values = place(blocks * value_tile_bytes());
  scratch.scores = place(kScores * sizeof(float));
  scratch.weights = place(format == OperandFormat::pair ? kScores * sizeof(BFloat16) : 0);
  scratch.bytes = used;
}

}  // namespace portolan::flash
