// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "attention/cuda/sm80_products.hpp"

/// The gradient of attention in two passes (Dao et al. 2022, arXiv:2205.14135, appendix B): one
/// block of the GPU computes dq of a tile of queries, or dk and dv of a tile of keys. Both compute
/// the weights again; nothing is added up between blocks, so that the order of sums is fixed.
///
/// In both, the tile of the block holds the rows of scores, and what streams by the columns: so
/// dk and dv multiply with scores' transpose as it comes.
namespace portolan::cuda::sm80 {

template <int HeadDim>
struct QueryGradientTiles {
  static constexpr int kWarps = 4;
  static constexpr int kThreads = kWarps * kWarpLanes;
  static constexpr int kRowTiles = 2;
  static constexpr int kWarpQueries = kRowTiles * kFragmentRows;
  static constexpr int kQueries = kWarps * kWarpQueries;
  /// Of the 255 registers of a thread dq takes HeadDim, scores and their gradients 2 * kKeys.
  static constexpr int kKeys = 32;
  static constexpr int kSlots = 2;
  static constexpr std::uint32_t kGradOut = tile_bytes<HeadDim>(kQueries);
  static constexpr std::uint32_t kStream = 2 * kGradOut;
  static constexpr std::uint32_t kSlotBytes = 2 * tile_bytes<HeadDim>(kKeys);
  static constexpr std::uint32_t kSharedBytes = kStream + kSlots * kSlotBytes;
};

template <int HeadDim>
struct KeyGradientTiles {
  static constexpr int kWarps = 4;
  static constexpr int kThreads = kWarps * kWarpLanes;
  /// dk and dv take HeadDim registers for each row tile.
  static constexpr int kRowTiles = HeadDim > 64 ? 1 : 2;
  static constexpr int kWarpKeys = kRowTiles * kFragmentRows;
  static constexpr int kKeys = kWarps * kWarpKeys;
  static constexpr int kQueries = 32;
  static constexpr int kSlots = 2;
  static constexpr std::uint32_t kValues = tile_bytes<HeadDim>(kKeys);
  static constexpr std::uint32_t kStream = 2 * kValues;
  /// A slot holds queries, gradients of out, and for each query log-sum-exp and delta.
  static constexpr std::uint32_t kGradOut = tile_bytes<HeadDim>(kQueries);
  static constexpr std::uint32_t kLogSumExp = 2 * kGradOut;
  static constexpr std::uint32_t kDelta = kLogSumExp + kQueries * sizeof(float);
  static constexpr std::uint32_t kSlotBytes = 2 * kGradOut + 1024;  // tiles start at 1024 bytes
  static constexpr std::uint32_t kSharedBytes = kStream + kSlots * kSlotBytes;
};

/// What is subtracted from a scaled score so that exp2 gives the weight: for a row that sees no key
/// as much as makes it 0.
PORTOLAN_DEVICE float weight_reference(float log_sum_exp) {
  return log_sum_exp == -kInfinity ? kInfinity : log_sum_exp * kLog2E;
}

template <int Rows, int Values>
PORTOLAN_DEVICE void scale_sums(float (&sums)[Rows][Values][4], float factor) {
  PORTOLAN_UNROLL
  for (int r = 0; r < Rows; ++r) {
    PORTOLAN_UNROLL
    for (int d = 0; d < Values; ++d) {
      PORTOLAN_UNROLL
      for (int i = 0; i < 4; ++i) sums[r][d][i] *= factor;
    }
  }
}

/// Block `index`: query tile, query head, batch entry.
template <AttentionElement Element, int HeadDim, typename Lane>
PORTOLAN_DEVICE void query_gradient_tile(const Lane& machine,
                                         const AttentionBackwardArguments& arguments,
                                         const BlockIndex& index) {
  using Tiles = QueryGradientTiles<HeadDim>;
  constexpr int kRowTiles = Tiles::kRowTiles;
  constexpr int kColumnTiles = Tiles::kKeys / kFragmentColumns;
  const AttentionShape& shape = arguments.shape;
  const AttentionEntry entry(shape, index.entry);
  const ScoreMask& mask = entry.mask;
  const int first_query = index.tile * Tiles::kQueries;
  if (first_query >= mask.queries) return;
  const int key_head = index.head / static_cast<int>(shape.heads / shape.key_heads);
  const HeadRows q = query_rows(entry, arguments.q, arguments.q_strides, index.head);
  const HeadRows grad_out =
      query_rows(entry, arguments.grad_out, arguments.grad_out_strides, index.head);
  const HeadRows k = key_rows(entry, arguments.k, arguments.k_strides, key_head);
  const HeadRows v = key_rows(entry, arguments.v, arguments.v_strides, key_head);
  const std::int64_t row_offset =
      entry.row_offset(arguments.log_sum_exp_stride, shape.heads, index.head);

  const int thread = machine.thread();
  const int lane = thread % kWarpLanes;
  const int warp_row = thread / kWarpLanes * Tiles::kWarpQueries;
  const IndexRange query_range = range_from(first_query, Tiles::kQueries, mask.queries);
  const IndexRange tiles = mask.key_tiles(query_range, Tiles::kKeys);

  const auto start_copy = [&](int tile, int slot) {
    if (tile < tiles.end) {
      const std::uint32_t to = Tiles::kStream + slot * Tiles::kSlotBytes;
      copy_tile<HeadDim, Tiles::kKeys, Tiles::kThreads>(machine, thread, to, k,
                                                        tile * Tiles::kKeys);
      copy_tile<HeadDim, Tiles::kKeys, Tiles::kThreads>(machine, thread, to + Tiles::kSlotBytes / 2,
                                                        v, tile * Tiles::kKeys);
    }
    machine.close_copies();
  };
  copy_tile<HeadDim, Tiles::kQueries, Tiles::kThreads>(machine, thread, 0, q, first_query);
  copy_tile<HeadDim, Tiles::kQueries, Tiles::kThreads>(machine, thread, Tiles::kGradOut, grad_out,
                                                       first_query);
  start_copy(tiles.begin, 0);

  float reference[kRowTiles][2];
  float delta[kRowTiles][2];
  PORTOLAN_UNROLL
  for (int r = 0; r < kRowTiles; ++r) {
    PORTOLAN_UNROLL
    for (int half = 0; half < 2; ++half) {
      const int row = first_query + warp_row + r * kFragmentRows + fragment_row(lane, 2 * half);
      const bool exists = row < mask.queries;
      reference[r][half] =
          exists ? weight_reference(arguments.log_sum_exp[row_offset + row]) : kInfinity;
      delta[r][half] = exists ? arguments.delta[row_offset + row] : 0.0F;
    }
  }
  float dq[kRowTiles][HeadDim / kFragmentColumns][4] = {};
  const float factor = shape.scale * kLog2E;
  const std::uint32_t query_tile = tile_bytes<HeadDim>(warp_row);
  int slot = 0;
  for (int tile = tiles.begin; tile < tiles.end; ++tile) {
    machine.template wait_copies<0>();
    machine.block_barrier();
    start_copy(tile + 1, 1 - slot);
    const std::uint32_t keys = Tiles::kStream + slot * Tiles::kSlotBytes;
    const std::uint32_t values = keys + Tiles::kSlotBytes / 2;
    slot = 1 - slot;

    const int first_key = tile * Tiles::kKeys;
    float scores[kRowTiles][kColumnTiles][4];
    multiply_tiles<Element, HeadDim>(machine, scores, query_tile, keys);
    if (mask.hides_keys(query_range, {first_key, first_key + Tiles::kKeys})) {
      hide_scores(scores, lane, first_query + warp_row, first_key,
                  [&](int query) { return mask.keys_of(query); });
    }
    float grad_weights[kRowTiles][kColumnTiles][4];
    multiply_tiles<Element, HeadDim>(machine, grad_weights, Tiles::kGradOut + query_tile, values);
    PORTOLAN_UNROLL
    for (int r = 0; r < kRowTiles; ++r) {
      PORTOLAN_UNROLL
      for (int c = 0; c < kColumnTiles; ++c) {
        PORTOLAN_UNROLL
        for (int i = 0; i < 4; ++i) {
          const float weight = machine.exp2(scores[r][c][i] * factor - reference[r][i / 2]);
          scores[r][c][i] = weight * (grad_weights[r][c][i] - delta[r][i / 2]);
        }
      }
    }
    std::uint32_t grad_scores[kRowTiles][kColumnTiles / 2][4];
    round_scores<Element>(machine, scores, grad_scores);
    accumulate_products<Element, HeadDim>(machine, dq, grad_scores, keys);
  }
  scale_sums(dq, shape.scale);

  machine.template wait_copies<0>();
  machine.block_barrier();
  store_sums<Element, HeadDim>(machine, dq, query_tile,
                               result_row(arguments.dq, arguments.output,
                                          entry.query_offset(arguments.dq_strides, index.head)),
                               arguments.output, arguments.dq_strides.token, first_query + warp_row,
                               mask.queries);
}

/// Block `index`: key tile, key/value head, batch entry. Query heads of the key/value head, and
/// tiles of queries, are summed in ascending order.
template <AttentionElement Element, int HeadDim, typename Lane>
PORTOLAN_DEVICE void key_gradient_tile(const Lane& machine,
                                       const AttentionBackwardArguments& arguments,
                                       const BlockIndex& index) {
  using Tiles = KeyGradientTiles<HeadDim>;
  constexpr int kRowTiles = Tiles::kRowTiles;
  constexpr int kColumnTiles = Tiles::kQueries / kFragmentColumns;
  const AttentionShape& shape = arguments.shape;
  const AttentionEntry entry(shape, index.entry);
  const ScoreMask& mask = entry.mask;
  const int first_key = index.tile * Tiles::kKeys;
  if (first_key >= mask.keys) return;
  const HeadRows k = key_rows(entry, arguments.k, arguments.k_strides, index.head);
  const HeadRows v = key_rows(entry, arguments.v, arguments.v_strides, index.head);

  const int thread = machine.thread();
  const int lane = thread % kWarpLanes;
  const int warp_row = thread / kWarpLanes * Tiles::kWarpKeys;
  const IndexRange key_range = range_from(first_key, Tiles::kKeys, mask.keys);
  const IndexRange tiles = mask.query_tiles(key_range, Tiles::kQueries);

  // All tiles of one query head, then all of the next.
  const int group = static_cast<int>(shape.heads / shape.key_heads);
  int next_head = index.head * group;
  const int end_head = tiles.size() > 0 ? next_head + group : next_head;
  int next_tile = tiles.begin;
  const auto start_copy = [&](int slot) {
    if (next_head < end_head) {
      const AttentionEntry place = entry_again(machine, shape, index.entry);
      const std::uint32_t to = Tiles::kStream + slot * Tiles::kSlotBytes;
      const int first_query = next_tile * Tiles::kQueries;
      copy_tile<HeadDim, Tiles::kQueries, Tiles::kThreads>(
          machine, thread, to, query_rows(place, arguments.q, arguments.q_strides, next_head),
          first_query);
      copy_tile<HeadDim, Tiles::kQueries, Tiles::kThreads>(
          machine, thread, to + Tiles::kGradOut,
          query_rows(place, arguments.grad_out, arguments.grad_out_strides, next_head),
          first_query);
      const auto worker = static_cast<int>(machine.opaque(static_cast<std::uint32_t>(thread)));
      if (worker < 2 * Tiles::kQueries) {
        const bool is_delta = worker >= Tiles::kQueries;
        const int row = first_query + worker % Tiles::kQueries;
        const float* rows = (is_delta ? arguments.delta : arguments.log_sum_exp) +
                            place.row_offset(arguments.log_sum_exp_stride, shape.heads, next_head);
        const bool valid = row < place.mask.queries;
        machine.copy_word(to + Tiles::kLogSumExp + worker * sizeof(float),
                          valid ? rows + row : rows, valid);
      }
      if (++next_tile == tiles.end) {
        next_tile = tiles.begin;
        ++next_head;
      }
    }
    machine.close_copies();
  };
  copy_tile<HeadDim, Tiles::kKeys, Tiles::kThreads>(machine, thread, 0, k, first_key);
  copy_tile<HeadDim, Tiles::kKeys, Tiles::kThreads>(machine, thread, Tiles::kValues, v, first_key);
  start_copy(0);

  float dk[kRowTiles][HeadDim / kFragmentColumns][4] = {};
  float dv[kRowTiles][HeadDim / kFragmentColumns][4] = {};
  const float factor = shape.scale * kLog2E;
  const std::uint32_t key_tile = tile_bytes<HeadDim>(warp_row);
  int slot = 0;
  int tile = tiles.begin;
  for (int left = tiles.size() * group; left > 0; --left) {
    machine.template wait_copies<0>();
    machine.block_barrier();
    start_copy(1 - slot);
    const std::uint32_t queries = Tiles::kStream + slot * Tiles::kSlotBytes;
    const std::uint32_t grad_out = queries + Tiles::kGradOut;
    slot = 1 - slot;
    const int first_query = tile * Tiles::kQueries;
    tile = tile + 1 == tiles.end ? tiles.begin : tile + 1;

    float scores[kRowTiles][kColumnTiles][4];
    multiply_tiles<Element, HeadDim>(machine, scores, key_tile, queries);
    if (mask.hides_queries(key_range, {first_query, first_query + Tiles::kQueries})) {
      hide_scores(scores, lane, first_key + warp_row, first_query,
                  [&](int key) { return mask.queries_of(key); });
    }
    PORTOLAN_UNROLL
    for (int c = 0; c < kColumnTiles; ++c) {
      const auto column =
          static_cast<std::uint32_t>(c * kFragmentColumns + fragment_column(lane, 0));
      const auto log_sum_exp = machine.template load<FloatPair>(
          queries + Tiles::kLogSumExp + column * static_cast<std::uint32_t>(sizeof(float)));
      const float reference[2] = {weight_reference(log_sum_exp.first),
                                  weight_reference(log_sum_exp.second)};
      PORTOLAN_UNROLL
      for (int r = 0; r < kRowTiles; ++r) {
        PORTOLAN_UNROLL
        for (int i = 0; i < 4; ++i) {
          scores[r][c][i] = machine.exp2(scores[r][c][i] * factor - reference[i % 2]);
        }
      }
    }
    std::uint32_t rounded[kRowTiles][kColumnTiles / 2][4];
    round_scores<Element>(machine, scores, rounded);
    accumulate_products<Element, HeadDim>(machine, dv, rounded, grad_out);

    float grad_weights[kRowTiles][kColumnTiles][4];
    multiply_tiles<Element, HeadDim>(machine, grad_weights, Tiles::kValues + key_tile, grad_out);
    PORTOLAN_UNROLL
    for (int c = 0; c < kColumnTiles; ++c) {
      const auto column =
          static_cast<std::uint32_t>(c * kFragmentColumns + fragment_column(lane, 0));
      const auto of_columns = machine.template load<FloatPair>(
          queries + Tiles::kDelta + column * static_cast<std::uint32_t>(sizeof(float)));
      const float delta[2] = {of_columns.first, of_columns.second};
      PORTOLAN_UNROLL
      for (int r = 0; r < kRowTiles; ++r) {
        PORTOLAN_UNROLL
        for (int i = 0; i < 4; ++i) scores[r][c][i] *= grad_weights[r][c][i] - delta[i % 2];
      }
    }
    round_scores<Element>(machine, scores, rounded);
    accumulate_products<Element, HeadDim>(machine, dk, rounded, queries);
  }
  scale_sums(dk, shape.scale);

  machine.template wait_copies<0>();
  machine.block_barrier();
  store_sums<Element, HeadDim>(machine, dk, key_tile,
                               result_row(arguments.dk, arguments.output,
                                          entry.key_offset(arguments.dk_strides, index.head)),
                               arguments.output, arguments.dk_strides.token, first_key + warp_row,
                               mask.keys);
  store_sums<Element, HeadDim>(machine, dv, Tiles::kValues + key_tile,
                               result_row(arguments.dv, arguments.output,
                                          entry.key_offset(arguments.dv_strides, index.head)),
                               arguments.output, arguments.dv_strides.token, first_key + warp_row,
                               mask.keys);
}

}  // namespace portolan::cuda::sm80
