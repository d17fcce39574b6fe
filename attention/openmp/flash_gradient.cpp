// SPDX-License-Identifier: Apache-2.0
#include <omp.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>
#include <numbers>
#include <optional>
#include <span>
#include <thread>
#include <utility>
#include <vector>

#include "attention/openmp/flash_plan.hpp"
#include "attention/openmp/gradient_plan.hpp"
#include "attention/openmp/openmp_attention.hpp"
#include "attention/openmp/products.hpp"
#include "attention/openmp/tile_dropout.hpp"
#include "attention/openmp/tile_gradient.hpp"
#include "attention/openmp/tile_mask.hpp"
#include "attention/openmp/tile_operations.hpp"
#include "attention/openmp/tile_statistics.hpp"
#include "attention/openmp/workers.hpp"
#include "core/error.hpp"

namespace portolan::flash {
namespace {

constexpr auto kOnes = [] {
  std::array<float, kMaximumTileRows> ones{};
  ones.fill(1.0F);
  return ones;
}();

/// What the threads of a backward pass share.
struct GradientRun {
  GradientRun(const GradientPlan& gradient_plan, const AttentionProblem& attention_problem,
              const AttentionGradients& attention_gradients, std::byte* scratch)
      : plan(gradient_plan),
        problem(attention_problem),
        gradients(attention_gradients),
        mask(attention_problem),
        memory(scratch),
        turns(static_cast<std::size_t>(plan.key_heads_at_once() * plan.key_tiles.size())) {}

  const GradientPlan& plan;
  const AttentionProblem& problem;
  const AttentionGradients& gradients;
  TileMask mask;
  std::byte* memory;
  /// Of each key tile in work: 0 as long as it is not packed, else 1 + the visits that are over.
  std::vector<std::atomic<std::int32_t>> turns;
};

/// One thread's share of a backward pass.
class GradientWorker {
 public:
  GradientWorker(GradientRun& run, int thread)
      : run_(run),
        plan_(run.plan),
        problem_(run.problem),
        thread_(thread),
        scratch_(run.memory + plan_.key_scratch_bytes() +
                 static_cast<std::size_t>(thread) * plan_.thread_scratch.bytes),
        scores_({.format = plan_.format,
                 .packed_stride = kGradientQueryTile,
                 .row_stride = plan_.query_dim,
                 .out_stride = kGradientQueryTile,
                 .accumulate = false}),
        key_sums_({.format = plan_.format,
                   .packed_stride = plan_.value_dim,
                   .row_stride = kGradientQueryTile,
                   .out_stride = plan_.value_dim,
                   .accumulate = true}),
        query_sums_({.format = plan_.format,
                     .packed_stride = kGradientQueryTile,
                     .row_stride = kKeyTile,
                     .out_stride = kGradientQueryTile,
                     .accumulate = true}) {}

  /// False if a product found no code.
  [[nodiscard]] bool run_key_head(std::int64_t index) {
    for (std::int64_t tile = 0; tile < plan_.key_tiles.size(); ++tile) {
      turn(thread_, tile).store(0, std::memory_order_relaxed);
    }
    bool served = true;
    for (std::int64_t chunk = 0; chunk < plan_.chunks; ++chunk) {
      served = run_chunk(index, chunk, thread_) && served;
    }
    return served;
  }

  [[nodiscard]] bool run_chunk(std::int64_t index, std::int64_t chunk, std::int64_t slot) {
    heads_.emplace(problem_, index);
    slot_ = slot;
    tiles_ = plan_.tiles_of(chunk);
    for (std::size_t i = 0; i < tiles_.size(); ++i) load(i);
    bool served = true;
    for (const GradientPlan::Visit& visit : plan_.visits_of(chunk)) {
      served = visit_keys(visit) && served;
    }
    for (std::size_t i = 0; i < tiles_.size(); ++i) store(i);
    return served;
  }

  [[nodiscard]] const AttentionStatistics& statistics() const { return statistics_; }

 private:
  [[nodiscard]] std::atomic<std::int32_t>& turn(std::int64_t slot, std::int64_t tile) const {
    return run_.turns[static_cast<std::size_t>(slot * plan_.key_tiles.size() + tile)];
  }
  /// Returns when the turn of a key tile is at least `value`.
  void await(std::int64_t tile, std::int32_t value) const {
    constexpr int kSpins = 2000;
    const std::atomic<std::int32_t>& now = turn(slot_, tile);
    for (int spin = 0; now.load(std::memory_order_acquire) < value; ++spin) {
      if (spin > kSpins) std::this_thread::yield();
    }
  }

  [[nodiscard]] std::byte* of_keys(std::int64_t tile, std::size_t part) const {
    const std::int64_t index = slot_ * plan_.key_slots() + plan_.key_slot(tile);
    return run_.memory + static_cast<std::size_t>(index) * plan_.key_scratch.bytes + part;
  }
  [[nodiscard]] std::byte* of_queries(std::size_t tile, std::size_t part) const {
    return scratch_ + plan_.thread_scratch.query_tiles + tile * plan_.query_scratch.bytes + part;
  }
  [[nodiscard]] static float* floats(std::byte* bytes) { return reinterpret_cast<float*>(bytes); }

  /// Brings in a query tile and clears its dq.
  void load(std::size_t i) {
    const QueryTile& tile = tiles_[i];
    const GradientPlan::QueryScratch& parts = plan_.query_scratch;
    load_operand(RowPointers(problem_.q, *heads_, tile).source(),
                 of_queries(i, parts.transposed_queries), of_queries(i, parts.queries));
    const RowPointers slopes(run_.gradients.grad_out, *heads_, tile);
    if (plan_.format == OperandFormat::pair && slopes.source().dtype == DType::f32) {
      load_narrowed(slopes.source(), i);
    } else {
      load_operand(slopes.source(), of_queries(i, parts.transposed_slopes),
                   of_queries(i, parts.slopes));
    }
    std::memset(of_queries(i, parts.transposed_dq), 0,
                sizeof(float) * static_cast<std::size_t>(plan_.head_dim * kGradientQueryTile));
    float* log_sum_exp = floats(of_queries(i, parts.log_sum_exp));
    float* delta = floats(of_queries(i, parts.delta));
    for (int row = 0; row < kGradientQueryTile; ++row) {
      // Minus infinity makes weights 0: of rows that see nothing, and of those that are not there.
      log_sum_exp[row] = -std::numeric_limits<float>::infinity();
      delta[row] = 0.0F;
      if (row >= tile.rows) continue;
      const float value = row_value(run_.gradients.log_sum_exp, *heads_, tile, row);
      if (std::isinf(value)) continue;
      log_sum_exp[row] = -value * std::numbers::log2e_v<float>;
      delta[row] = -problem_.scale * row_value(run_.gradients.delta, *heads_, tile, row);
    }
  }

  void load_operand(const SourceRows& source, std::byte* transposed, std::byte* values) const {
    pack_transposed(source, plan_.format, kGradientQueryTile, transposed);
    pack_values(source, plan_.format, plan_.value_dim, values);
  }

  /// Of f32 rows where products take bf16.
  void load_narrowed(const SourceRows& source, std::size_t i) const {
    std::array<void*, kGradientQueryTile> rows;
    auto* narrow = reinterpret_cast<BFloat16*>(scratch_ + plan_.thread_scratch.transposed);
    for (int row = 0; row < source.count; ++row) {
      rows[static_cast<std::size_t>(row)] = narrow + row * source.head_dim;
      const auto* wide = static_cast<const float*>(source.rows[row]);
      for (int d = 0; d < source.head_dim; ++d) {
        narrow[row * source.head_dim + d] = from_float<BFloat16>(wide[d]);
      }
    }
    load_operand({rows.data(), DType::bf16, source.count, source.head_dim},
                 of_queries(i, plan_.query_scratch.transposed_slopes),
                 of_queries(i, plan_.query_scratch.slopes));
  }

  /// Brings in a key tile and clears its dk and dv.
  void pack(std::int64_t index) const {
    const RowTile& tile = plan_.key_tiles[index];
    const GradientPlan::KeyScratch& parts = plan_.key_scratch;
    const RowPointers key_rows(problem_.k, *heads_, tile);
    const RowPointers value_rows(problem_.v, *heads_, tile);
    const std::size_t row_bytes = static_cast<std::size_t>(plan_.query_dim) * plan_.element_bytes();
    for (const auto& [source, part] :
         {std::pair(key_rows.source(), parts.keys), std::pair(value_rows.source(), parts.values)}) {
      std::byte* rows = of_keys(index, part);
      load_rows(source, plan_.format, plan_.query_dim, 1.0F, rows);
      const auto used = static_cast<std::size_t>(source.count) * row_bytes;
      std::memset(rows + used, 0, kKeyTile * row_bytes - used);
    }
    std::byte* transposed = of_keys(index, parts.transposed_keys);
    if (plan_.format == OperandFormat::pair) {
      float* wide = floats(scratch_ + plan_.thread_scratch.transposed);
      const int columns = (static_cast<int>(tile.length) + 31) / 32 * 32;
      pack_transposed(key_rows.source(), OperandFormat::single, kKeyTile, wide);
      pair_columns(wide, plan_.head_dim, columns, kKeyTile, transposed);
    } else {
      pack_transposed(key_rows.source(), plan_.format, kKeyTile, transposed);
    }
    for (const std::size_t part : {parts.dk, parts.dv}) {
      std::memset(of_keys(index, part), 0,
                  sizeof(float) * static_cast<std::size_t>(kKeyTile * plan_.value_dim));
    }
  }

  [[nodiscard]] bool visit_keys(const GradientPlan::Visit& visit) {
    if (visit.turn == 0) {
      pack(visit.key_tile);
      turn(slot_, visit.key_tile).store(1, std::memory_order_release);
    } else {
      await(visit.key_tile, 1);
    }
    bool served = true;
    for (std::size_t i = 0; i < tiles_.size(); ++i) served = visit_tile(i, visit) && served;
    await(visit.key_tile, visit.turn + 1);
    if (visit.turn + 1 == plan_.visitors(visit.key_tile)) store_keys(visit.key_tile);
    turn(slot_, visit.key_tile).store(visit.turn + 2, std::memory_order_release);
    return served;
  }

  [[nodiscard]] bool visit_tile(std::size_t i, const GradientPlan::Visit& visit) {
    const QueryTile& queries = tiles_[i];
    const RowTile& keys = plan_.key_tiles[visit.key_tile];
    const TileVisibility visibility = run_.mask.look(*heads_, queries, keys, seen_);
    if (visibility == TileVisibility::none) return true;
    ++statistics_.tiles_visited;
    TileBox box = whole_box(queries.rows, static_cast<int>(keys.length));
    const bool compared = visibility == TileVisibility::partial;
    const bool masked = compared || keys.length % 32 != 0;
    if (compared) {
      ++statistics_.tiles_compared;
      box = box_of(seen_, queries.rows);
    } else if (masked) {
      set_rectangle(seen_, queries.rows, static_cast<int>(keys.length));
    }
    if (masked) transpose(seen_, seen_by_key_);
    if (problem_.dropout.probability > 0.0F) {
      find_kept(problem_.dropout, *heads_, queries, keys, kept_);
      transpose(kept_, kept_by_key_);
    }
    return multiply(i, visit, box, masked);
  }

  /// The five products of a tile.
  [[nodiscard]] bool multiply(std::size_t i, const GradientPlan::Visit& visit, const TileBox& box,
                              bool masked) {
    const GradientPlan::ThreadScratch& own = plan_.thread_scratch;
    const GradientPlan::QueryScratch& query = plan_.query_scratch;
    const GradientPlan::KeyScratch& key = plan_.key_scratch;
    const std::size_t element = plan_.element_bytes();
    const auto offset = [&](int rows, int row_elements) {
      return static_cast<std::size_t>(rows) * static_cast<std::size_t>(row_elements) * element;
    };
    // A column of a packed operand is 4 bytes wide in both formats.
    const std::size_t query_column = static_cast<std::size_t>(box.row_begin) * sizeof(float);
    const std::size_t key_row = offset(box.column_begin, plan_.query_dim);
    const ProductShape shape{
        .rows = box.columns(), .columns = box.rows(), .summed = plan_.query_dim};
    float* scores = floats(scratch_ + own.scores);
    float* weight_slopes = floats(scratch_ + own.weight_slopes);
    bool served = scores_(shape, of_keys(visit.key_tile, key.keys) + key_row,
                          of_queries(i, query.transposed_queries) + query_column, scores);
    served = scores_(shape, of_keys(visit.key_tile, key.values) + key_row,
                     of_queries(i, query.transposed_slopes) + query_column, weight_slopes) &&
             served;
    differentiate(i, box, masked);

    const bool pair = plan_.format == OperandFormat::pair;
    const auto operand = [&](float* single, std::size_t pairs) {
      return pair ? static_cast<const void*>(scratch_ + pairs) : single;
    };
    await(visit.key_tile, visit.turn + 1);
    const std::size_t query_row = offset(box.row_begin, plan_.value_dim);
    const auto key_sum = [&](std::size_t part) {
      return floats(of_keys(visit.key_tile, part)) + box.column_begin * plan_.value_dim;
    };
    const ProductShape key_shape{
        .rows = box.columns(), .columns = plan_.value_dim, .summed = box.rows()};
    served = key_sums_(key_shape, operand(scores, own.pair_weights),
                       of_queries(i, query.slopes) + query_row, key_sum(key.dv)) &&
             served;
    served = key_sums_(key_shape, operand(weight_slopes, own.pair_slopes),
                       of_queries(i, query.queries) + query_row, key_sum(key.dk)) &&
             served;
    return query_sums_({.rows = plan_.head_dim, .columns = box.rows(), .summed = box.columns()},
                       of_keys(visit.key_tile, key.transposed_keys) + offset(box.column_begin, 1),
                       operand(weight_slopes, own.packed_slopes),
                       floats(of_queries(i, query.transposed_dq)) + box.row_begin) &&
           served;
  }

  void differentiate(std::size_t i, const TileBox& box, bool masked) const {
    const GradientPlan::ThreadScratch& own = plan_.thread_scratch;
    const bool dropout = problem_.dropout.probability > 0.0F;
    const auto bits = [&](const TransposedTileBits& of_tile) {
      return of_tile.data() + box.column_begin * (kGradientQueryTile / 8) + box.row_begin / 8;
    };
    gradient_tile(
        {.scores = floats(scratch_ + own.scores),
         .weight_slopes = floats(scratch_ + own.weight_slopes),
         .pair_weights = scratch_ + own.pair_weights,
         .pair_slopes = scratch_ + own.pair_slopes,
         .packed_slopes = scratch_ + own.packed_slopes,
         .stride = kGradientQueryTile,
         .keys = box.columns(),
         .queries = box.rows(),
         .scale = problem_.scale,
         .log_sum_exp = floats(of_queries(i, plan_.query_scratch.log_sum_exp)) + box.row_begin,
         .delta = floats(of_queries(i, plan_.query_scratch.delta)) + box.row_begin,
         .seen = masked ? bits(seen_by_key_) : nullptr,
         .kept = dropout ? bits(kept_by_key_) : nullptr,
         .kept_factor = 1.0F / (1.0F - problem_.dropout.probability)},
        plan_.format);
  }

  void store_gradient(const float* sums, int stride, const RowPointers& rows) const {
    const SourceRows to = rows.source();
    if (run_.gradients.accumulate) {
      add_rows(sums, stride, to.count, to.head_dim, to.rows);
    } else {
      store_rows(sums, stride, kOnes.data(), to.count, to.head_dim, to.dtype, to.rows);
    }
  }

  void store_keys(std::int64_t index) const {
    const RowTile& tile = plan_.key_tiles[index];
    const auto sums = [&](std::size_t part) { return floats(of_keys(index, part)); };
    store_gradient(sums(plan_.key_scratch.dk), plan_.value_dim,
                   RowPointers(run_.gradients.dk, *heads_, tile));
    store_gradient(sums(plan_.key_scratch.dv), plan_.value_dim,
                   RowPointers(run_.gradients.dv, *heads_, tile));
  }

  void store(std::size_t i) const {
    constexpr int kMaximumHeadDim = 256;
    std::array<void*, kMaximumHeadDim> columns;
    float* transposed = floats(of_queries(i, plan_.query_scratch.transposed_dq));
    for (int d = 0; d < plan_.head_dim; ++d) {
      columns[static_cast<std::size_t>(d)] = transposed + d * kGradientQueryTile;
    }
    const int stride = (plan_.head_dim + 31) / 32 * 32;
    float* rows = floats(scratch_ + plan_.thread_scratch.transposed);
    pack_transposed({columns.data(), DType::f32, plan_.head_dim, kGradientQueryTile},
                    OperandFormat::single, stride, rows);
    store_gradient(rows, stride, RowPointers(run_.gradients.dq, *heads_, tiles_[i]));
  }

  GradientRun& run_;
  const GradientPlan& plan_;
  const AttentionProblem& problem_;
  std::int64_t thread_;
  std::byte* scratch_;
  TileProduct scores_;
  TileProduct key_sums_;
  TileProduct query_sums_;
  std::optional<HeadGroup> heads_;
  std::int64_t slot_ = 0;
  std::span<const QueryTile> tiles_;
  TileBits seen_;
  TileBits kept_ = {};
  TransposedTileBits seen_by_key_;
  TransposedTileBits kept_by_key_;
  AttentionStatistics statistics_;
};

/// dk and dv of keys that no query sees.
void clear_unseen(const GradientPlan& plan, const AttentionProblem& problem,
                  const AttentionGradients& gradients) {
  for (std::int64_t tile = 0; tile < plan.key_tiles.size(); ++tile) {
    if (plan.visitors(tile) > 0) continue;
    for (std::int64_t index = 0; index < plan.key_heads; ++index) {
      for (const Tensor* gradient : {&gradients.dk, &gradients.dv}) {
        const RowPointers pointers(*gradient, HeadGroup(problem, index), plan.key_tiles[tile]);
        const SourceRows rows = pointers.source();
        for (int row = 0; row < rows.count; ++row) {
          std::memset(rows.rows[row], 0,
                      static_cast<std::size_t>(rows.head_dim) * size_of(rows.dtype));
        }
      }
    }
  }
}

class FlashGradientKernel final : public AttentionBackwardKernel {
 public:
  FlashGradientKernel(AttentionMethod method, AttentionTileTable tiles)
      : method_(method), tiles_(std::move(tiles)) {}

  [[nodiscard]] DeviceKind device() const override { return DeviceKind::cpu; }
  [[nodiscard]] AttentionMethod method() const override { return method_; }

  [[nodiscard]] std::string unsupported_reason(const AttentionProblem& problem) const override {
    return flash_unsupported_reason(problem, method_, AttentionPass::backward);
  }

  [[nodiscard]] std::size_t workspace_bytes(const AttentionProblem& problem) const override {
    return plan_of(problem).workspace_bytes();
  }

  void backward(const AttentionProblem& problem,
                const AttentionGradients& gradients) const override {
    const GradientPlan plan = plan_of(problem);
    const Tensor memory = Tensor::empty({static_cast<std::int64_t>(plan.workspace_bytes())},
                                        DType::u8, problem.q.device());
    if (!gradients.accumulate) clear_unseen(plan, problem, gradients);
    GradientRun run(plan, problem, gradients, memory.raw());
    TileStatistics statistics(problem, kGradientQueryTile);
    std::atomic<bool> served = true;
    // Tasks are begun in order, so that the one a thread waits for is always under way.
    std::atomic<std::int64_t> next = 0;
    const std::int64_t tasks =
        plan.chunks_side_by_side ? plan.key_heads * plan.chunks : plan.key_heads;
    run_workers(plan.threads, [&](int thread) {
      GradientWorker worker(run, thread);
      for (std::int64_t task = next++; task < tasks; task = next++) {
        const bool done =
            plan.chunks_side_by_side
                ? worker.run_chunk(task / plan.chunks, task % plan.chunks, task / plan.chunks)
                : worker.run_key_head(task);
        if (!done) served = false;
      }
      statistics.add(worker.statistics());
    });
    if (!served) throw Error("attention: libxsmm could not generate code for a tile product");
  }

 private:
  [[nodiscard]] GradientPlan plan_of(const AttentionProblem& problem) const {
    const AttentionTiles tiles =
        problem.tiles ? *problem.tiles : tiles_.find(problem.q.dtype(), problem.q.dim(3));
    return {problem, tiles, omp_get_max_threads()};
  }

  AttentionMethod method_;
  AttentionTileTable tiles_;
};

}  // namespace
}  // namespace portolan::flash

namespace portolan {

std::unique_ptr<AttentionBackwardKernel> make_openmp_flash_attention_backward(
    AttentionMethod method, AttentionTileTable tiles) {
  return std::make_unique<flash::FlashGradientKernel>(method, std::move(tiles));
}

}  // namespace portolan
