// SPDX-License-Identifier: Apache-2.0
#include <omp.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <limits>
#include <numbers>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "attention/openmp/cached_rows.hpp"
#include "attention/openmp/flash_plan.hpp"
#include "attention/openmp/openmp_attention.hpp"
#include "attention/openmp/products.hpp"
#include "attention/openmp/row_products.hpp"
#include "attention/openmp/tile_dropout.hpp"
#include "attention/openmp/tile_mask.hpp"
#include "attention/openmp/tile_operations.hpp"
#include "attention/openmp/tile_statistics.hpp"
#include "attention/openmp/workers.hpp"
#include "core/error.hpp"

namespace portolan {
namespace flash {
namespace {

/// What all workers share where keys are split.
struct Splits {
  float* states;                                ///< of all splits of all key heads
  std::vector<std::atomic<std::int64_t>> kept;  ///< how many, of each key head
};

/// One thread's share of a forward pass, in its part of the scratch memory.
class Worker {
 public:
  Worker(const FlashPlan& plan, const AttentionProblem& problem, const Tensor& out,
         const Tensor& log_sum_exp, std::byte* scratch, Splits& splits)
      : plan_(plan),
        problem_(problem),
        out_(out),
        log_sum_exp_(log_sum_exp),
        scratch_(scratch),
        splits_(splits),
        mask_(problem),
        products_(plan.format, plan.query_dim, plan.value_dim),
        packed_(static_cast<std::size_t>(plan.block_tiles)) {}

  [[nodiscard]] const AttentionStatistics& statistics() const { return statistics_; }

  /// False if the products found no code.
  [[nodiscard]] bool run(std::int64_t task) {
    const std::int64_t key_head = task % plan_.key_heads;
    heads_.emplace(problem_, key_head);
    task /= plan_.key_heads;
    const std::int64_t split = task % plan_.splits;
    // Chunks at the end see the most keys under a causal mask: begun first, they end in time.
    choose_chunk(plan_.chunks - 1 - task / plan_.splits);
    if (tiles_.empty()) return true;
    const bool served = visit_keys(split * plan_.split_tiles);
    if (plan_.splits > 1) {
      keep_split(split);
      // Whoever keeps the last one merges them all.
      if (++splits_.kept[static_cast<std::size_t>(key_head)] == plan_.splits) merge_splits();
    }
    return served;
  }

 private:
  void choose_chunk(std::int64_t chunk) {
    const std::int64_t tiles = std::ssize(plan_.query_tiles);
    const std::int64_t begin = std::min(chunk * plan_.chunk_tiles, tiles);
    const std::int64_t end = std::min(begin + plan_.chunk_tiles, tiles);
    tiles_ = std::span(plan_.query_tiles)
                 .subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(end - begin));
  }

  [[nodiscard]] float* floats(std::size_t offset) const {
    return reinterpret_cast<float*>(scratch_ + offset);
  }
  [[nodiscard]] float* maximum_of(std::size_t tile) const {
    return floats(plan_.scratch.maximum) + tile * kQueryTile;
  }
  [[nodiscard]] float* sums_of(std::size_t tile) const {
    return floats(plan_.scratch.sums) + tile * kQueryTile * kSumLanes;
  }
  [[nodiscard]] float* out_of(std::size_t tile) const {
    return floats(plan_.scratch.out) +
           tile * kQueryTile * static_cast<std::size_t>(plan_.value_dim);
  }
  [[nodiscard]] std::byte* queries_of(std::size_t tile) const {
    return scratch_ + plan_.scratch.queries +
           tile * kQueryTile * static_cast<std::size_t>(plan_.query_dim) * plan_.element_bytes();
  }

  /// Brings in the queries of tile i and clears its state.
  void load(std::size_t i) {
    const QueryTile& tile = tiles_[i];
    const float scale = problem_.scale;
    const float sign = scale > 0.0F ? 1.0F : scale < 0.0F ? -1.0F : 0.0F;
    load_rows(RowPointers(problem_.q, *heads_, tile).source(), plan_.format, plan_.query_dim, sign,
              queries_of(i));
    clear(i);
  }

  void clear(std::size_t i) {
    const auto rows = static_cast<std::size_t>(tiles_[i].rows);
    std::fill_n(out_of(i), rows * static_cast<std::size_t>(plan_.value_dim), 0.0F);
    std::fill_n(sums_of(i), rows * kSumLanes, 0.0F);
    std::fill_n(maximum_of(i), rows, std::numeric_limits<float>::lowest());
  }

  /// Runs the chunk over the split of the keys that starts with tile `first`.
  bool visit_keys(std::int64_t first) {
    const std::int64_t last = std::min(first + plan_.split_tiles, plan_.key_tiles.size());
    seen_tiles_.resize(tiles_.size());
    for (std::size_t i = 0; i < tiles_.size(); ++i) {
      seen_tiles_[i].clear();
      plan_.key_tiles.find_seen(tiles_[i].tokens(), seen_tiles_[i]);
    }
    std::int64_t begin = next_seen(first);
    for (bool opening = true;; opening = false) {
      const std::int64_t end = std::min(begin + plan_.block_tiles, last);
      const std::int64_t next = next_seen(end);
      const bool closing = next >= last;
      if (!visit_block({begin, end}, opening, closing && plan_.splits == 1)) return false;
      if (closing) return true;
      begin = next;
    }
  }

  /// The first key tile from `begin` on that some query of the chunk may see.
  [[nodiscard]] std::int64_t next_seen(std::int64_t begin) const {
    std::int64_t next = plan_.key_tiles.size();
    for (const std::vector<TileRange>& ranges : seen_tiles_) {
      for (const TileRange& range : ranges) {
        if (range.end > begin) next = std::min(next, std::max(begin, range.begin));
      }
    }
    return next;
  }

  /// Runs the chunk's queries over a block of key tiles. The first block of a chunk loads each
  /// query tile before use, the last stores it after, while it is in cache.
  bool visit_block(const TileRange& block, bool opening, bool closing) {
    std::fill(packed_.begin(), packed_.end(), false);
    for (std::size_t i = 0; i < tiles_.size(); ++i) {
      if (opening) load(i);
      for (const TileRange& range : seen_tiles_[i]) {
        const std::int64_t end = std::min(range.end, block.end);
        for (std::int64_t key = std::max(range.begin, block.begin); key < end; ++key) {
          if (!visit_tile(i, key, static_cast<std::size_t>(key - block.begin))) return false;
        }
      }
      if (closing) store(i);
    }
    return true;
  }

  [[nodiscard]] std::byte* keys_of(std::size_t slot) const {
    return scratch_ + plan_.scratch.keys + slot * plan_.key_tile_bytes();
  }
  [[nodiscard]] std::byte* values_of(std::size_t slot) const {
    return scratch_ + plan_.scratch.values + slot * plan_.value_tile_bytes();
  }

  void pack(const RowTile& keys, std::size_t slot) {
    if (packed_[slot]) return;
    const RowPointers key_rows(problem_.k, *heads_, keys);
    const RowPointers value_rows(problem_.v, *heads_, keys);
    pack_transposed(key_rows.source(), plan_.format, kKeyTile, keys_of(slot));
    pack_values(value_rows.source(), plan_.format, plan_.value_dim, values_of(slot));
    packed_[slot] = true;
  }

  bool visit_tile(std::size_t i, std::int64_t key, std::size_t slot) {
    const QueryTile& tile = tiles_[i];
    const RowTile& keys = plan_.key_tiles[key];
    const auto length = static_cast<int>(keys.length);
    const TileVisibility visibility = mask_.look(*heads_, tile, keys, seen_);
    if (visibility == TileVisibility::none) return true;
    ++statistics_.tiles_visited;
    if (!plan_.in_place) pack(keys, slot);
    int begin = 0;
    int end = length;
    const bool compared = visibility == TileVisibility::partial;
    const bool masked = compared || length % 16 != 0;
    if (compared) {
      ++statistics_.tiles_compared;
      const TileBox box = box_of(seen_, tile.rows);
      begin = box.column_begin;
      end = std::min(box.column_end, length);
    } else if (masked) {
      set_rectangle(seen_, tile.rows, length);
    }
    const bool dropout = problem_.dropout.probability > 0.0F;
    if (dropout) find_kept(problem_.dropout, *heads_, tile, keys, kept_);
    const bool pair = plan_.format == OperandFormat::pair;
    float* scores = floats(plan_.scratch.scores);
    const SoftmaxTile softmax{
        .scores = scores,
        .pair_weights = pair ? static_cast<void*>(scratch_ + plan_.scratch.weights) : scores,
        .stride = kKeyTile,
        .rows = tile.rows,
        .columns = (end - begin + 15) / 16 * 16,
        .scale = scale(),
        .seen = masked ? seen_.data() + begin / 8 : nullptr,
        .kept = dropout ? kept_.data() + begin / 8 : nullptr,
        .maximum = maximum_of(i),
        .sums = sums_of(i),
        .out = out_of(i),
        .padded_dim = plan_.value_dim};
    if (!plan_.in_place) return multiply(i, slot, begin, softmax);
    multiply_in_place(i, key, begin, end, softmax);
    return true;
  }

  /// Both products, from packed key columns `begin` and following on.
  bool multiply(std::size_t i, std::size_t slot, int begin, const SoftmaxTile& softmax) {
    // A column of packed keys, and half a row of packed pairs of values, are 4 bytes wide.
    const std::byte* packed_keys = keys_of(slot) + begin * 4;
    const std::byte* packed_values =
        values_of(slot) + static_cast<std::size_t>(begin * plan_.value_dim) * plan_.element_bytes();
    const int columns = softmax.columns;
    if (!products_.scores(softmax.rows, columns, queries_of(i), packed_keys, softmax.scores)) {
      return false;
    }
    softmax_tile(softmax, plan_.format);
    const int summed = plan_.format == OperandFormat::pair ? (columns + 31) / 32 * 32 : columns;
    return products_.accumulate(softmax.rows, summed, softmax.pair_weights, packed_values,
                                out_of(i));
  }

  /// Both products, from keys [begin, end) of a tile where they are.
  void multiply_in_place(std::size_t i, std::int64_t key, int begin, int end,
                         const SoftmaxTile& softmax) const {
    const RowPointers keys(problem_.k, *heads_, plan_.key_tiles[key]);
    const RowPointers values(problem_.v, *heads_, plan_.key_tiles[key]);
    const SourceRows seen_values = values.source().slice(begin, end);
    row_scores(reinterpret_cast<const float*>(queries_of(i)), plan_.query_dim, softmax.rows,
               keys.source().slice(begin, end), seen_values, softmax.scores);
    softmax_tile(softmax, plan_.format);
    const std::int64_t next = std::min(key + 1, plan_.key_tiles.size() - 1);
    const RowPointers next_keys(problem_.k, *heads_, plan_.key_tiles[next]);
    accumulate_rows(softmax.scores, softmax.rows, seen_values, next_keys.source(), plan_.value_dim,
                    out_of(i));
  }

  /// The sign is in the queries; a scale of 0 too, so that this one stays positive.
  [[nodiscard]] float scale() const {
    return problem_.scale == 0.0F ? 1.0F : std::abs(problem_.scale) * std::numbers::log2e_v<float>;
  }

  void store(std::size_t i) {
    const QueryTile& tile = tiles_[i];
    std::array<float, kQueryTile> sums;
    std::array<float, kQueryTile> factors;
    add_lanes(sums_of(i), tile.rows, sums.data());
    const float kept_factor = 1.0F / (1.0F - problem_.dropout.probability);
    for (std::size_t row = 0; row < static_cast<std::size_t>(tile.rows); ++row) {
      factors[row] = sums[row] == 0.0F ? 0.0F : kept_factor / sums[row];
      if (log_sum_exp_.defined()) {
        store_log_sum_exp(tile, static_cast<int>(row), sums[row], maximum_of(i)[row]);
      }
    }
    const RowPointers rows(out_, *heads_, tile);
    store_rows(out_of(i), plan_.value_dim, factors.data(), tile.rows,
               static_cast<int>(problem_.q.dim(3)), out_.dtype(), rows.data());
  }

  void store_log_sum_exp(const QueryTile& tile, int row, float sum, float reference) const {
    float& value = row_value(log_sum_exp_, *heads_, tile, row);
    value = sum == 0.0F ? -std::numeric_limits<float>::infinity()
                        : static_cast<float>(reference * std::numbers::ln2 + std::log(double{sum}));
  }

  /// Where the state of a query tile after a split of the keys is kept.
  struct SplitState {
    float* out;
    float* sums;
    float* maximum;
  };
  [[nodiscard]] SplitState split_state(std::size_t tile, std::int64_t split) const {
    const std::int64_t head = heads_->batch * problem_.k.dim(2) + heads_->key_head;
    const auto index = static_cast<std::size_t>(head * plan_.splits + split);
    float* state = splits_.states + index * plan_.split_floats();
    const std::size_t rows = plan_.chunk_rows();
    const auto dim = static_cast<std::size_t>(plan_.value_dim);
    const std::size_t row = tile * kQueryTile;
    return {state + row * dim, state + rows * dim + row * kSumLanes,
            state + rows * (dim + kSumLanes) + row};
  }

  void keep_split(std::int64_t split) const {
    for (std::size_t i = 0; i < tiles_.size(); ++i) {
      const SplitState state = split_state(i, split);
      const auto rows = static_cast<std::size_t>(tiles_[i].rows);
      std::copy_n(out_of(i), rows * static_cast<std::size_t>(plan_.value_dim), state.out);
      std::copy_n(sums_of(i), rows * kSumLanes, state.sums);
      std::copy_n(maximum_of(i), rows, state.maximum);
    }
  }

  /// Adds the state after a split to that of tile i, both brought to the larger reference.
  void add_split(std::size_t i, std::int64_t split) const {
    const SplitState state = split_state(i, split);
    const int dim = plan_.value_dim;
    for (int row = 0; row < tiles_[i].rows; ++row) {
      float& maximum = maximum_of(i)[row];
      const float larger = std::max(maximum, state.maximum[row]);
      const float old_factor = std::exp2(maximum - larger);
      const float new_factor = std::exp2(state.maximum[row] - larger);
      const auto add = [&](float* to, const float* from, int count) {
        for (int j = 0; j < count; ++j) to[j] = to[j] * old_factor + from[j] * new_factor;
      };
      add(out_of(i) + row * dim, state.out + row * dim, dim);
      add(sums_of(i) + row * kSumLanes, state.sums + row * kSumLanes, kSumLanes);
      maximum = larger;
    }
  }

  /// Of the key head, in order.
  void merge_splits() {
    for (std::size_t i = 0; i < tiles_.size(); ++i) {
      clear(i);
      for (std::int64_t split = 0; split < plan_.splits; ++split) add_split(i, split);
      store(i);
    }
  }

  const FlashPlan& plan_;
  const AttentionProblem& problem_;
  const Tensor& out_;
  const Tensor& log_sum_exp_;
  std::byte* scratch_;
  Splits& splits_;
  TileMask mask_;
  Products products_;
  std::vector<char> packed_;  // which key tiles of the block are
  std::optional<HeadGroup> heads_;
  std::span<const QueryTile> tiles_;
  std::vector<std::vector<TileRange>> seen_tiles_;  // of each query tile, ascending
  TileBits seen_;
  TileBits kept_;
  AttentionStatistics statistics_;
};

class FlashKernel final : public AttentionForwardKernel {
 public:
  FlashKernel(AttentionMethod method, AttentionTileTable tiles)
      : method_(method), tiles_(std::move(tiles)) {}

  [[nodiscard]] DeviceKind device() const override { return DeviceKind::cpu; }
  [[nodiscard]] AttentionMethod method() const override { return method_; }

  [[nodiscard]] std::string unsupported_reason(const AttentionProblem& problem) const override {
    return flash_unsupported_reason(problem, method_, AttentionPass::forward);
  }

  [[nodiscard]] std::size_t workspace_bytes(const AttentionProblem& problem) const override {
    std::size_t most = 0;
    for (const EntryRange& entries : entries_of_one_problem(problem)) {
      most = std::max(most, plan_of(without_cached_rows(problem, entries)).workspace_bytes());
    }
    return most;
  }

  void forward(const AttentionProblem& problem, const Tensor& out,
               const Tensor& log_sum_exp) const override {
    if (!problem.cached_rows.defined()) return run(problem, out, log_sum_exp);
    for (const EntryRange& entries : entries_of_one_problem(problem)) {
      const auto of_entries = [&](const Tensor& tensor) {
        return tensor.defined() ? tensor.slice(0, entries.begin, entries.end) : tensor;
      };
      run(without_cached_rows(problem, entries), of_entries(out), of_entries(log_sum_exp));
    }
  }

 private:
  void run(const AttentionProblem& problem, const Tensor& out, const Tensor& log_sum_exp) const {
    const FlashPlan plan = plan_of(problem);
    const Tensor memory = Tensor::empty({static_cast<std::int64_t>(plan.workspace_bytes())},
                                        DType::u8, problem.q.device());
    auto* states = reinterpret_cast<float*>(
        memory.raw() + plan.scratch.bytes * static_cast<std::size_t>(plan.threads));
    Splits splits{states,
                  std::vector<std::atomic<std::int64_t>>(static_cast<std::size_t>(plan.key_heads))};
    TileStatistics statistics(problem, kQueryTile);
    std::atomic<bool> served = true;
    std::atomic<std::int64_t> next = 0;
    run_workers(plan.threads, [&](int thread) {
      Worker worker(plan, problem, out, log_sum_exp,
                    memory.raw() + static_cast<std::size_t>(thread) * plan.scratch.bytes, splits);
      for (std::int64_t task = next++; task < plan.tasks(); task = next++) {
        if (!worker.run(task)) served = false;
      }
      statistics.add(worker.statistics());
    });
    if (!served) throw Error("attention: libxsmm could not generate code for a tile product");
  }

  [[nodiscard]] FlashPlan plan_of(const AttentionProblem& problem) const {
    const AttentionTiles tiles =
        problem.tiles ? *problem.tiles : tiles_.find(problem.q.dtype(), problem.q.dim(3));
    return {problem, tiles, omp_get_max_threads()};
  }

  AttentionMethod method_;
  AttentionTileTable tiles_;
};

}  // namespace
}  // namespace flash

std::unique_ptr<AttentionForwardKernel> make_openmp_flash_attention(AttentionMethod method,
                                                                    AttentionTileTable tiles) {
  return std::make_unique<flash::FlashKernel>(method, std::move(tiles));
}

}  // namespace portolan
