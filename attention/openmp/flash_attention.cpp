// SPDX-License-Identifier: Apache-2.0
#include <omp.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <limits>
#include <numbers>
#include <vector>

#include "attention/openmp/flash_plan.hpp"
#include "attention/openmp/openmp_attention.hpp"
#include "attention/openmp/products.hpp"
#include "attention/openmp/tile_operations.hpp"
#include "core/error.hpp"

namespace portolan {
namespace flash {
namespace {

/// One thread's share of a forward pass, in its part of the scratch memory.
class Worker {
 public:
  Worker(const FlashPlan& plan, const AttentionProblem& problem, const Tensor& out,
         const Tensor& log_sum_exp, std::byte* scratch)
      : plan_(plan),
        problem_(problem),
        out_(out),
        log_sum_exp_(log_sum_exp),
        scratch_(scratch),
        products_(plan.format, plan.query_dim, plan.value_dim),
        packed_(static_cast<std::size_t>(plan.block_tiles)) {}

  /// False if the products found no code.
  [[nodiscard]] bool run(std::int64_t task) {
    // Chunks at the end see the most keys under a causal mask: begun first, they end in time.
    const std::int64_t chunk = plan_.chunks - 1 - task / plan_.key_heads;
    const std::int64_t key_heads = problem_.k.dim(2);
    batch_ = task % plan_.key_heads / key_heads;
    key_head_ = task % key_heads;
    const auto tiles = static_cast<std::int64_t>(plan_.query_tiles.size());
    const std::int64_t begin = chunk * plan_.chunk_tiles;
    const std::int64_t end = std::min(begin + plan_.chunk_tiles, tiles);
    if (begin >= end) return true;
    tiles_ = std::span(plan_.query_tiles)
                 .subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(end - begin));
    return visit_keys();
  }

 private:
  using RowPointers = std::array<void*, kQueryTile>;

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

  [[nodiscard]] std::int64_t token_of(const QueryTile& tile, int row) const {
    return tile.token + (tile.first_row + row) / plan_.group;
  }
  [[nodiscard]] std::int64_t head_of(const QueryTile& tile, int row) const {
    return key_head_ * plan_.group + (tile.first_row + row) % plan_.group;
  }
  [[nodiscard]] RowPointers rows_of(const Tensor& tensor, const QueryTile& tile) const {
    RowPointers rows{};
    const Shape& strides = tensor.strides();
    for (int row = 0; row < tile.rows; ++row) {
      const std::int64_t offset =
          batch_ * strides[0] + token_of(tile, row) * strides[1] + head_of(tile, row) * strides[2];
      rows[static_cast<std::size_t>(row)] =
          tensor.raw() + offset * static_cast<std::int64_t>(size_of(tensor.dtype()));
    }
    return rows;
  }

  /// Brings in the queries of tile i and clears its state.
  void load(std::size_t i) {
    const QueryTile& tile = tiles_[i];
    const auto head_dim = static_cast<int>(problem_.q.dim(3));
    const float scale = problem_.scale;
    const float sign = scale > 0.0F ? 1.0F : scale < 0.0F ? -1.0F : 0.0F;
    load_queries(rows_of(problem_.q, tile).data(), tile.rows, problem_.q.dtype(), head_dim,
                 plan_.format, plan_.query_dim, sign, queries_of(i));
    const auto rows = static_cast<std::size_t>(tile.rows);
    std::fill_n(out_of(i), rows * static_cast<std::size_t>(plan_.value_dim), 0.0F);
    std::fill_n(sums_of(i), rows * kSumLanes, 0.0F);
    std::fill_n(maximum_of(i), rows, std::numeric_limits<float>::lowest());
  }

  bool visit_keys() {
    // Positions between which all of the chunk's queries lie.
    std::int64_t first = plan_.position(tiles_.front(), 0);
    std::int64_t last = first;
    for (const QueryTile& tile : tiles_) {
      first = std::min(first, plan_.position(tile, 0));
      last = std::max(last, plan_.position(tile, tile.rows - 1));
    }
    hull_ = {0, first, last - first + 1};

    const std::size_t count = plan_.key_tiles.size();
    std::size_t begin = next_seen(0);
    for (bool opening = true;; opening = false) {
      const std::size_t end = std::min(begin + static_cast<std::size_t>(plan_.block_tiles), count);
      const std::size_t next = next_seen(end);
      const bool closing = next == count;
      if (!visit_block(begin, end, opening, closing)) return false;
      if (closing) return true;
      begin = next;
    }
  }

  /// The first key tile from `begin` on that some query of the chunk may see.
  [[nodiscard]] std::size_t next_seen(std::size_t begin) const {
    const std::size_t count = plan_.key_tiles.size();
    while (begin < count &&
           tile_visibility(plan_.rule, hull_, plan_.key_tiles[begin]) == TileVisibility::none) {
      ++begin;
    }
    return begin;
  }

  /// Runs the chunk's queries over key tiles [begin, end). The first block of a chunk loads each
  /// query tile before use, the last stores it after, while it is in cache.
  bool visit_block(std::size_t begin, std::size_t end, bool opening, bool closing) {
    std::fill(packed_.begin(), packed_.end(), false);
    for (std::size_t i = 0; i < tiles_.size(); ++i) {
      if (opening) load(i);
      const QueryTile& tile = tiles_[i];
      const std::int64_t first = plan_.position(tile, 0);
      const RowTile queries{0, first, plan_.position(tile, tile.rows - 1) - first + 1};
      for (std::size_t key = begin; key < end; ++key) {
        const TileVisibility visibility =
            tile_visibility(plan_.rule, queries, plan_.key_tiles[key]);
        if (visibility == TileVisibility::none) continue;
        if (!packed_[key - begin]) pack(key, key - begin);
        if (!visit_tile(i, plan_.key_tiles[key], key - begin, visibility)) return false;
      }
      if (closing) store(i);
    }
    return true;
  }

  [[nodiscard]] SourceRows source(const Tensor& tensor, const RowTile& keys) const {
    const Shape& strides = tensor.strides();
    const std::int64_t offset =
        batch_ * strides[0] + keys.row * strides[1] + key_head_ * strides[2];
    return {tensor.raw() + offset * static_cast<std::int64_t>(size_of(tensor.dtype())),
            tensor.dtype(), strides[1], static_cast<int>(keys.length),
            static_cast<int>(tensor.dim(3))};
  }
  [[nodiscard]] std::byte* keys_of(std::size_t slot) const {
    return scratch_ + plan_.scratch.keys + slot * plan_.key_tile_bytes();
  }
  [[nodiscard]] std::byte* values_of(std::size_t slot) const {
    return scratch_ + plan_.scratch.values + slot * plan_.value_tile_bytes();
  }

  void pack(std::size_t key, std::size_t slot) {
    const RowTile& keys = plan_.key_tiles[key];
    pack_keys(source(problem_.k, keys), plan_.format, keys_of(slot));
    pack_values(source(problem_.v, keys), plan_.format, plan_.value_dim, values_of(slot));
    packed_[slot] = true;
  }

  bool visit_tile(std::size_t i, const RowTile& keys, std::size_t slot, TileVisibility visibility) {
    const QueryTile& tile = tiles_[i];
    const auto length = static_cast<int>(keys.length);
    int begin = 0;
    int end = length;
    std::array<int, kQueryTile> row_first;
    std::array<int, kQueryTile> row_end;
    const bool masked = visibility == TileVisibility::partial || length % 16 != 0;
    if (masked) {
      for (int row = 0; row < tile.rows; ++row) {
        const std::int64_t query = plan_.position(tile, row);
        const auto r = static_cast<std::size_t>(row);
        row_first[r] = static_cast<int>(plan_.rule.first_key(query, keys.position) - keys.position);
        row_end[r] =
            static_cast<int>(std::max<std::int64_t>(
                                 plan_.rule.end_key(query, keys.position + length), keys.position) -
                             keys.position);
      }
      // Positions grow with rows, and so do both ends of what is seen.
      begin = row_first[0] / (2 * kPairDistance) * (2 * kPairDistance);
      end = row_end[static_cast<std::size_t>(tile.rows - 1)];
      for (int row = 0; row < tile.rows; ++row) {
        row_first[static_cast<std::size_t>(row)] -= begin;
        row_end[static_cast<std::size_t>(row)] -= begin;
      }
    }
    const int columns = (end - begin + 15) / 16 * 16;
    const bool pair = plan_.format == OperandFormat::pair;

    // A column of packed keys, and half a row of packed pairs of values, are 4 bytes wide.
    const std::byte* packed_keys = keys_of(slot) + begin * 4;
    const std::byte* packed_values =
        values_of(slot) + static_cast<std::size_t>(begin * plan_.value_dim) * plan_.element_bytes();
    float* scores = floats(plan_.scratch.scores);
    void* weights = pair ? static_cast<void*>(scratch_ + plan_.scratch.weights) : scores;
    if (!products_.scores(tile.rows, columns, queries_of(i), packed_keys, scores)) return false;
    softmax_tile({.scores = scores,
                  .pair_weights = weights,
                  .stride = kKeyTile,
                  .rows = tile.rows,
                  .columns = columns,
                  .scale = scale(),
                  .first = masked ? row_first.data() : nullptr,
                  .end = masked ? row_end.data() : nullptr,
                  .maximum = maximum_of(i),
                  .sums = sums_of(i),
                  .out = out_of(i),
                  .padded_dim = plan_.value_dim},
                 plan_.format);
    const int summed = pair ? (columns + 31) / 32 * 32 : columns;
    return products_.accumulate(tile.rows, summed, weights, packed_values, out_of(i));
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
    for (std::size_t row = 0; row < static_cast<std::size_t>(tile.rows); ++row) {
      factors[row] = sums[row] == 0.0F ? 0.0F : 1.0F / sums[row];
      if (log_sum_exp_.defined()) {
        store_log_sum_exp(tile, static_cast<int>(row), sums[row], maximum_of(i)[row]);
      }
    }
    store_rows(out_of(i), plan_.value_dim, factors.data(), tile.rows,
               static_cast<int>(problem_.q.dim(3)), out_.dtype(), rows_of(out_, tile).data());
  }

  void store_log_sum_exp(const QueryTile& tile, int row, float sum, float reference) const {
    const Shape& strides = log_sum_exp_.strides();
    float& value =
        log_sum_exp_.data<float>()[batch_ * strides[0] + head_of(tile, row) * strides[1] +
                                   token_of(tile, row) * strides[2]];
    value = sum == 0.0F ? -std::numeric_limits<float>::infinity()
                        : static_cast<float>(reference * std::numbers::ln2 + std::log(double{sum}));
  }

  const FlashPlan& plan_;
  const AttentionProblem& problem_;
  const Tensor& out_;
  const Tensor& log_sum_exp_;
  std::byte* scratch_;
  Products products_;
  std::vector<char> packed_;  // which key tiles of the block are
  std::span<const QueryTile> tiles_;
  std::int64_t batch_ = 0;
  std::int64_t key_head_ = 0;
  RowTile hull_;  // positions of the chunk's queries
};

class FlashKernel final : public AttentionForwardKernel {
 public:
  [[nodiscard]] DeviceKind device() const override { return DeviceKind::cpu; }
  [[nodiscard]] AttentionMethod method() const override { return AttentionMethod::flash; }

  [[nodiscard]] std::string unsupported_reason(const AttentionProblem& problem) const override {
    static const bool served = has_vector_operations() && has_products(OperandFormat::single);
    if (!served) return "libxsmm generates no code for this CPU (it needs AVX2)";
    return unserved_feature(problem, {});
  }

  [[nodiscard]] std::size_t workspace_bytes(const AttentionProblem& problem) const override {
    const FlashPlan plan(problem, omp_get_max_threads());
    return plan.scratch.bytes * static_cast<std::size_t>(plan.threads);
  }

  void forward(const AttentionProblem& problem, const Tensor& out,
               const Tensor& log_sum_exp) const override {
    const FlashPlan plan(problem, omp_get_max_threads());
    const Tensor memory =
        Tensor::empty({plan.threads, static_cast<std::int64_t>(plan.scratch.bytes)}, DType::u8,
                      problem.q.device());
    std::atomic<bool> served = true;
#pragma omp parallel num_threads(plan.threads)
    {
      const auto thread = static_cast<std::size_t>(omp_get_thread_num());
      Worker worker(plan, problem, out, log_sum_exp, memory.raw() + thread * plan.scratch.bytes);
#pragma omp for schedule(dynamic, 1)
      for (std::int64_t task = 0; task < plan.tasks(); ++task) {
        if (!worker.run(task)) served = false;
      }
    }
    if (!served) throw Error("attention: libxsmm could not generate code for a tile product");
  }
};

}  // namespace
}  // namespace flash

std::unique_ptr<AttentionForwardKernel> make_openmp_flash_attention() {
  return std::make_unique<flash::FlashKernel>();
}

}  // namespace portolan
