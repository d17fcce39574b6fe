// SPDX-License-Identifier: Apache-2.0
#include "attention/openmp/flash_plan.hpp"

#include <algorithm>

#include "attention/openmp/products.hpp"
#include "attention/openmp/scratch.hpp"

namespace portolan::flash {
namespace {

// Query rows of a key head for which reading keys takes longer than multiplying with them.
constexpr std::int64_t kInPlaceRows = 8;
// Query tiles of a key head that are few enough to cut along the keys, and key tiles of a split.
// Not by the number of threads: results must not depend on it.
constexpr std::int64_t kSplitQueryTiles = 8;
constexpr std::int64_t kSplitTiles = 8;
// Waking and joining a thread costs some microseconds, as long as this many operations take: on
// packed tiles, which a thread multiplies at some 200 GFLOP/s, and on rows where they are, at 40.
constexpr double kOperationsOfThread = 1 << 20;
constexpr double kInPlaceOperationsOfThread = 1 << 18;

constexpr std::int64_t divide_up(std::int64_t value, std::int64_t divisor) {
  return (value + divisor - 1) / divisor;
}
constexpr int round_up(int value, int multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

}  // namespace

std::string flash_unsupported_reason(const AttentionProblem& problem, AttentionMethod method,
                                     AttentionPass pass) {
  static const bool served = has_vector_operations() && has_products(OperandFormat::single);
  if (!served) return "libxsmm generates no code for this CPU (it needs AVX2)";
  if (method == AttentionMethod::window && problem.mask.window == 0) return "there is no window";
  if (method == AttentionMethod::block_sparse && !problem.mask.blocks) {
    return "there is no block map";
  }
  return unserved_feature(problem, {.packing = true,
                                    .padding = true,
                                    .blocks = true,
                                    .dropout = true,
                                    .cached_rows = pass == AttentionPass::forward});
}

OperandFormat operand_format(DType dtype) {
  static const bool pairs = has_products(OperandFormat::pair);
  return dtype == DType::bf16 && pairs ? OperandFormat::pair : OperandFormat::single;
}

int padded_query_dim(int head_dim, OperandFormat format) {
  return format == OperandFormat::pair ? round_up(head_dim, 2) : head_dim;
}
int padded_value_dim(int head_dim) { return round_up(head_dim, 16); }

int useful_threads(double operations, bool in_place, int available_threads) {
  const double of_thread = in_place ? kInPlaceOperationsOfThread : kOperationsOfThread;
  return static_cast<int>(
      std::clamp(operations / of_thread, 1.0, static_cast<double>(available_threads)));
}

FlashPlan::FlashPlan(const AttentionProblem& problem, const AttentionTiles& tiles,
                     int available_threads)
    : format(operand_format(problem.q.dtype())),
      query_tiles(split_queries(problem, kQueryTile)),
      key_tiles(problem, kKeyTile) {
  const auto head_dim = static_cast<int>(problem.q.dim(3));
  key_heads = problem.q.dim(0) * problem.k.dim(2);
  std::int64_t rows = 0;
  for (const QueryTile& tile : query_tiles) rows += tile.rows;
  in_place = rows <= kInPlaceRows;
  if (in_place) format = OperandFormat::single;
  value_dim = padded_value_dim(head_dim);
  query_dim = in_place ? value_dim : padded_query_dim(head_dim, format);
  share_out(problem, tiles.forward_chunk, available_threads);

  const std::size_t tile_bytes = key_tile_bytes() + value_tile_bytes();
  const auto block_bytes = static_cast<std::size_t>(tiles.block_kib) << 10;
  block_tiles = static_cast<int>(std::clamp<std::size_t>(
      block_bytes / tile_bytes, 1,
      std::max<std::size_t>(static_cast<std::size_t>(key_tiles.size()), 1)));
  place_scratch();
}

void FlashPlan::share_out(const AttentionProblem& problem, std::int64_t most_tiles,
                          int available_threads) {
  const int useful =
      useful_threads(4.0 * static_cast<double>(problem.q.elements() * problem.k.dim(1)), in_place,
                     available_threads);
  const std::int64_t tiles = std::ssize(query_tiles);
  if (tiles <= kSplitQueryTiles && key_tiles.size() > kSplitTiles) {
    chunks = tiles == 0 ? 0 : 1;
    chunk_tiles = static_cast<int>(std::max<std::int64_t>(tiles, 1));
    splits = divide_up(key_tiles.size(), kSplitTiles);
    split_tiles = kSplitTiles;
  } else {
    // Several tasks a thread even out what a causal mask makes uneven; one thread needs none of it.
    const std::int64_t wanted = useful == 1 ? 1 : 4 * useful;
    const std::int64_t tiles_of_task =
        std::clamp<std::int64_t>(divide_up(tiles * key_heads, wanted), 1, most_tiles);
    chunks = divide_up(tiles, tiles_of_task);
    chunk_tiles = chunks == 0 ? 1 : static_cast<int>(divide_up(tiles, chunks));
    split_tiles = key_tiles.size();
  }
  threads = static_cast<int>(std::clamp<std::int64_t>(tasks(), 1, useful));
}

void FlashPlan::place_scratch() {
  ScratchLayout layout;
  const auto place = [&layout](std::size_t bytes) { return layout.place(bytes); };
  const std::size_t rows = chunk_rows();
  const auto blocks = static_cast<std::size_t>(block_tiles);
  constexpr std::size_t kScores = static_cast<std::size_t>(kQueryTile) * kKeyTile;
  scratch.queries = place(rows * static_cast<std::size_t>(query_dim) * element_bytes());
  scratch.out = place(rows * static_cast<std::size_t>(value_dim) * sizeof(float));
  scratch.sums = place(rows * kSumLanes * sizeof(float));
  scratch.maximum = place(rows * sizeof(float));
  scratch.keys = place(in_place ? 0 : blocks * key_tile_bytes());
  scratch.values = place(in_place ? 0 : blocks * value_tile_bytes());
  scratch.scores = place(kScores * sizeof(float));
  scratch.weights = place(format == OperandFormat::pair ? kScores * sizeof(BFloat16) : 0);
  scratch.bytes = layout.bytes();
}

}  // namespace portolan::flash
