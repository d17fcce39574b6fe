// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "attention/cuda/sm80_products.hpp"

/// Forward attention of one tile of queries, for one block of the GPU (FlashAttention-2: Dao 2023,
/// arXiv:2307.08691): keys and values stream through shared memory, scores and the sum of values
/// stay in registers.
namespace portolan::cuda::sm80 {

template <int HeadDim>
struct ForwardTiles {
  static constexpr int kWarps = 4;
  static constexpr int kThreads = kWarps * kWarpLanes;
  /// A warp has 32 queries: with 16, reading keys and values out of shared memory takes as long as
  /// multiplying with them. Sums take HeadDim and scores 64 of the 255 registers of a thread.
  static constexpr int kRowTiles = 2;
  static constexpr int kWarpQueries = kRowTiles * kFragmentRows;
  static constexpr int kQueries = kWarps * kWarpQueries;
  static constexpr int kKeys = 64;
  /// Tiles of keys or values that are in use or on their way. Two blocks of (128 + 3 * 64) * 256
  /// bytes fit the 164 KiB of an A100's multiprocessor.
  static constexpr int kSlots = HeadDim > 64 ? 3 : 4;
  static constexpr std::uint32_t kQueryBytes = tile_bytes<HeadDim>(kQueries);
  static constexpr std::uint32_t kSlotBytes = tile_bytes<HeadDim>(kKeys);
  static constexpr std::uint32_t kSharedBytes = kQueryBytes + kSlots * kSlotBytes;
};

/// Running softmax of a warp's rows. Maxima are of unscaled scores.
template <int RowTiles>
struct RowStatistics {
  float maximum[RowTiles][2];
  float sum[RowTiles][2];  ///< of the thread's own columns

  PORTOLAN_DEVICE void reset() {
    PORTOLAN_UNROLL
    for (int r = 0; r < RowTiles; ++r) {
      PORTOLAN_UNROLL
      for (int half = 0; half < 2; ++half) {
        maximum[r][half] = -kInfinity;
        sum[r][half] = 0.0F;
      }
    }
  }
};

/// Turns scores into weights exp2(factor * (score - maximum)), and scales what was summed under the
/// previous maximum.
template <int HeadDim, int RowTiles, int ColumnTiles, typename Lane>
PORTOLAN_DEVICE void update_softmax(const Lane& machine, float (&scores)[RowTiles][ColumnTiles][4],
                                    RowStatistics<RowTiles>& rows,
                                    float (&sums)[RowTiles][HeadDim / kFragmentColumns][4],
                                    float factor) {
  PORTOLAN_UNROLL
  for (int r = 0; r < RowTiles; ++r) {
    PORTOLAN_UNROLL
    for (int half = 0; half < 2; ++half) {
      float maximum = rows.maximum[r][half];
      PORTOLAN_UNROLL
      for (int c = 0; c < ColumnTiles; ++c) {
        PORTOLAN_UNROLL
        for (int i = 2 * half; i < 2 * half + 2; ++i) {
          maximum = scores[r][c][i] > maximum ? scores[r][c][i] : maximum;
        }
      }
      maximum = row_maximum(machine, maximum);
      // A row that has seen no key yet keeps weights 0: exp2(-infinity - 0).
      const float reference = maximum == -kInfinity ? 0.0F : maximum * factor;
      const float correction = machine.exp2(rows.maximum[r][half] * factor - reference);
      rows.maximum[r][half] = maximum;
      float sum = rows.sum[r][half] * correction;
      PORTOLAN_UNROLL
      for (int c = 0; c < ColumnTiles; ++c) {
        PORTOLAN_UNROLL
        for (int i = 2 * half; i < 2 * half + 2; ++i) {
          scores[r][c][i] = machine.exp2(scores[r][c][i] * factor - reference);
          sum += scores[r][c][i];
        }
      }
      rows.sum[r][half] = sum;
      PORTOLAN_UNROLL
      for (int d = 0; d < HeadDim / kFragmentColumns; ++d) {
        sums[r][d][2 * half] *= correction;
        sums[r][d][2 * half + 1] *= correction;
      }
    }
  }
}

/// Divides the sums by those of the weights and returns each row's log-sum-exp in `rows.maximum`.
template <int HeadDim, int RowTiles, typename Lane>
PORTOLAN_DEVICE void finish_softmax(const Lane& machine, RowStatistics<RowTiles>& rows,
                                    float (&sums)[RowTiles][HeadDim / kFragmentColumns][4],
                                    float scale) {
  PORTOLAN_UNROLL
  for (int r = 0; r < RowTiles; ++r) {
    PORTOLAN_UNROLL
    for (int half = 0; half < 2; ++half) {
      const float sum = row_sum(machine, rows.sum[r][half]);
      const bool saw_nothing = sum == 0.0F;  // not a row of NaN, which stays one
      const float inverse = saw_nothing ? 0.0F : 1.0F / sum;
      rows.maximum[r][half] =
          saw_nothing ? -kInfinity : rows.maximum[r][half] * scale + machine.log2(sum) * kLn2;
      PORTOLAN_UNROLL
      for (int d = 0; d < HeadDim / kFragmentColumns; ++d) {
        sums[r][d][2 * half] *= inverse;
        sums[r][d][2 * half + 1] *= inverse;
      }
    }
  }
}

/// Block `index`: query tile, query head, batch entry.
template <AttentionElement Element, int HeadDim, typename Lane>
PORTOLAN_DEVICE void forward_tile(const Lane& machine, const AttentionForwardArguments& arguments,
                                  const BlockIndex& index) {
  using Tiles = ForwardTiles<HeadDim>;
  constexpr int kRowTiles = Tiles::kRowTiles;
  const AttentionShape& shape = arguments.shape;
  const AttentionEntry entry(shape, index.entry);
  const ScoreMask& mask = entry.mask;
  const int first_query = index.tile * Tiles::kQueries;
  if (first_query >= mask.queries) return;
  const int key_head = index.head / static_cast<int>(shape.heads / shape.key_heads);
  const HeadRows q = query_rows(entry, arguments.q, arguments.q_strides, index.head);

  const int thread = machine.thread();
  const int lane = thread % kWarpLanes;
  const int warp_row = thread / kWarpLanes * Tiles::kWarpQueries;
  const IndexRange query_range = range_from(first_query, Tiles::kQueries, mask.queries);
  const IndexRange tiles = mask.key_tiles(query_range, Tiles::kKeys);

  // Keys and values of one tile after the other take turns in a ring of slots.
  const int items = 2 * tiles.size();
  int next_item = 0;
  int next_slot = 0;
  const auto start_copy = [&] {
    if (next_item < items) {
      const bool keys = next_item % 2 == 0;
      const AttentionEntry place = entry_again(machine, shape, index.entry);
      const AttentionStrides& strides = keys ? arguments.k_strides : arguments.v_strides;
      copy_tile<HeadDim, Tiles::kKeys, Tiles::kThreads>(
          machine, thread, Tiles::kQueryBytes + next_slot * Tiles::kSlotBytes,
          key_rows(place, keys ? arguments.k : arguments.v, strides, key_head),
          (tiles.begin + next_item / 2) * Tiles::kKeys);
    }
    machine.close_copies();  // an empty group keeps the count of groups in step with items
    ++next_item;
    next_slot = next_slot + 1 == Tiles::kSlots ? 0 : next_slot + 1;
  };
  int slot = 0;
  const auto next_tile = [&] {
    machine.template wait_copies<Tiles::kSlots - 2>();
    // All threads' copies have arrived, and no warp uses the slot that is filled next any more.
    machine.block_barrier();
    start_copy();
    const std::uint32_t tile = Tiles::kQueryBytes + slot * Tiles::kSlotBytes;
    slot = slot + 1 == Tiles::kSlots ? 0 : slot + 1;
    return tile;
  };
  copy_tile<HeadDim, Tiles::kQueries, Tiles::kThreads>(machine, thread, 0, q, first_query);
  PORTOLAN_UNROLL
  for (int i = 0; i < Tiles::kSlots - 1; ++i) start_copy();

  float sums[kRowTiles][HeadDim / kFragmentColumns][4] = {};
  RowStatistics<kRowTiles> rows;
  rows.reset();
  const float factor = shape.scale * kLog2E;
  const std::uint32_t query_tile = tile_bytes<HeadDim>(warp_row);
  for (int tile = tiles.begin; tile < tiles.end; ++tile) {
    const int first_key = tile * Tiles::kKeys;
    float scores[kRowTiles][Tiles::kKeys / kFragmentColumns][4];
    multiply_tiles<Element, HeadDim>(machine, scores, query_tile, next_tile());
    if (mask.hides_keys(query_range, {first_key, first_key + Tiles::kKeys})) {
      hide_scores(scores, lane, first_query + warp_row, first_key,
                  [&](int query) { return mask.keys_of(query); });
    }
    update_softmax<HeadDim>(machine, scores, rows, sums, factor);
    std::uint32_t weights[kRowTiles][Tiles::kKeys / kFragmentDepth][4];
    round_scores<Element>(machine, scores, weights);
    accumulate_products<Element, HeadDim>(machine, sums, weights, next_tile());
  }
  finish_softmax<HeadDim>(machine, rows, sums, shape.scale);

  // Queries may not have arrived yet if they see no key; their tile is overwritten.
  machine.template wait_copies<0>();
  machine.block_barrier();
  if (arguments.log_sum_exp != nullptr && lane % 4 == 0) {
    float* to = arguments.log_sum_exp +
                entry.row_offset(arguments.log_sum_exp_stride, shape.heads, index.head);
    PORTOLAN_UNROLL
    for (int r = 0; r < kRowTiles; ++r) {
      PORTOLAN_UNROLL
      for (int half = 0; half < 2; ++half) {
        const int row = first_query + warp_row + r * kFragmentRows + fragment_row(lane, 2 * half);
        if (row < mask.queries) to[row] = rows.maximum[r][half];
      }
    }
  }
  store_sums<Element, HeadDim>(machine, sums, query_tile,
                               result_row(arguments.out, arguments.output,
                                          entry.query_offset(arguments.out_strides, index.head)),
                               arguments.output, arguments.out_strides.token,
                               first_query + warp_row, mask.queries);
}

}  // namespace portolan::cuda::sm80
