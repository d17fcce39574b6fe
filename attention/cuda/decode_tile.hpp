// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "attention/cuda/decode_plan.hpp"
#include "attention/cuda/sm80_forward_tile.hpp"

/// Attention of few queries over many keys, for one block of the GPU (Flash-Decoding: Dao, Haziza,
/// Massa, Sizov 2023). Each warp reads keys of its own and keeps a softmax of its own; what the
/// warps of a block found, and then the blocks of a row, is merged in order.
namespace portolan::cuda::sm80 {

template <int HeadDim>
struct DecodeTiles {
  static constexpr int kWarps = DecodePlan::kWarps;
  static constexpr int kThreads = kWarps * kWarpLanes;
  static constexpr int kRows = DecodePlan::kRows;
  static constexpr int kKeys = DecodePlan::kWarpKeys;
  /// Keys and values of a warp that are in use or on their way: two blocks of a multiprocessor then
  /// wait for up to 128 KiB of head_dim 128, more than memory delivers in the time that it takes to
  /// answer.
  static constexpr int kSlots = 3;
  static constexpr std::uint32_t kSlotBytes = 2 * tile_bytes<HeadDim>(kKeys);
  static constexpr std::uint32_t kWarpBytes = kSlots * kSlotBytes;
  static constexpr std::uint32_t kSharedBytes = kWarps * kWarpBytes;
  static_assert(kSharedBytes <= 99 * 1024, "compute capabilities 8.6, 8.9 and 12.0 have no more");
  /// The queries pass through the first warp's last slot, the one that no keys are on their way to
  /// before the queries are in registers.
  static constexpr std::uint32_t kQueries = (kSlots - 1) * kSlotBytes;
  static_assert(tile_bytes<HeadDim>(kRows) <= kSlotBytes);
  /// In place of a warp's keys and values at the end: its sums, f32, and the maximum and the sum of
  /// weights of each row. A row is longer by as much as spreads its columns over the banks.
  static constexpr int kMergeStride = HeadDim + 8;
  static constexpr std::uint32_t kMergeMaximum = kRows * kMergeStride * sizeof(float);
  static constexpr std::uint32_t kMergeSum = kMergeMaximum + kRows * sizeof(float);
  static_assert(kMergeSum + kRows * sizeof(float) <= kWarpBytes);
};

/// Where a row's result goes.
struct DecodeRow {
  int token = 0;
  int head = 0;
  std::int64_t index = 0;  ///< of [B, H, Sq]
};
PORTOLAN_DEVICE DecodeRow decode_row(const AttentionShape& shape, const DecodePlan& plan,
                                     const BlockIndex& index, int row) {
  const int token = row / plan.group;
  const int head = index.head * plan.group + row % plan.group;
  return {token, head, (index.entry * shape.heads + head) * shape.query_tokens + token};
}

/// Writes eight elements of a row of out.
template <AttentionElement Element, typename Lane>
PORTOLAN_DEVICE void store_out(const Lane& machine, const AttentionForwardArguments& arguments,
                               int entry, int token, int head, int column,
                               const float (&values)[8]) {
  const AttentionStrides& strides = arguments.out_strides;
  const std::int64_t offset =
      entry * strides.batch + token * strides.token + head * strides.head + column;
  if (arguments.output == AttentionOutput::element) {
    Chunk chunk;
    PORTOLAN_UNROLL
    for (int i = 0; i < 4; ++i) {
      chunk.words[i] = machine.template pack<Element>(values[2 * i], values[2 * i + 1]);
    }
    *reinterpret_cast<Chunk*>(static_cast<std::uint16_t*>(arguments.out) + offset) = chunk;
    return;
  }
  PORTOLAN_UNROLL
  for (int i = 0; i < 8; ++i) static_cast<float*>(arguments.out)[offset + i] = values[i];
}

/// Merges what the warps of the block have left in shared memory and writes it: to the workspace if
/// the keys are split, else as the result.
template <AttentionElement Element, int HeadDim, typename Lane>
PORTOLAN_DEVICE void merge_warps(const Lane& machine, const AttentionForwardArguments& arguments,
                                 const DecodePlan& plan, float* workspace, const BlockIndex& index,
                                 int first_row, int split) {
  using Tiles = DecodeTiles<HeadDim>;
  constexpr int kWords = sizeof(float);
  constexpr int kRowThreads = Tiles::kThreads / Tiles::kRows;
  const int local_row = machine.thread() / kRowThreads;
  const int part = machine.thread() % kRowThreads;
  if (first_row + local_row >= plan.rows) return;
  const AttentionShape& shape = arguments.shape;
  const DecodeRow row = decode_row(shape, plan, index, first_row + local_row);

  const auto of_warp = [&](int warp, std::uint32_t offset) {
    return machine.template load<float>(warp * Tiles::kWarpBytes + offset);
  };
  float maximum = -kInfinity;
  PORTOLAN_UNROLL
  for (int warp = 0; warp < Tiles::kWarps; ++warp) {
    const float found = of_warp(warp, Tiles::kMergeMaximum + local_row * kWords);
    maximum = found > maximum ? found : maximum;
  }
  const float factor = shape.scale * kLog2E;
  const float reference = maximum == -kInfinity ? 0.0F : maximum * factor;
  float weights[Tiles::kWarps];
  float sum = 0.0F;
  PORTOLAN_UNROLL
  for (int warp = 0; warp < Tiles::kWarps; ++warp) {
    weights[warp] =
        machine.exp2(of_warp(warp, Tiles::kMergeMaximum + local_row * kWords) * factor - reference);
    sum += weights[warp] * of_warp(warp, Tiles::kMergeSum + local_row * kWords);
  }
  const float inverse = sum == 0.0F ? 0.0F : 1.0F / sum;
  const float log_sum_exp =
      sum == 0.0F ? -kInfinity : maximum * shape.scale + machine.log2(sum) * kLn2;

  const DecodeWorkspace places(shape, plan);
  PORTOLAN_UNROLL
  for (int step = 0; step < HeadDim / (8 * kRowThreads); ++step) {
    const int column = (step * kRowThreads + part) * 8;
    float values[8];
    PORTOLAN_UNROLL
    for (int i = 0; i < 8; ++i) {
      values[i] = 0.0F;
      PORTOLAN_UNROLL
      for (int warp = 0; warp < Tiles::kWarps; ++warp) {
        values[i] +=
            weights[warp] * of_warp(warp, (local_row * Tiles::kMergeStride + column + i) * kWords);
      }
      values[i] *= inverse;
    }
    if (plan.splits > 1) {
      float* to = workspace + places.out(row.index, split) + column;
      PORTOLAN_UNROLL
      for (int i = 0; i < 8; ++i) to[i] = values[i];
    } else {
      store_out<Element>(machine, arguments, index.entry, row.token, row.head, column, values);
    }
  }
  if (part != 0) return;
  if (plan.splits > 1) {
    workspace[places.log_sum_exp(row.index, split)] = log_sum_exp;
  } else if (arguments.log_sum_exp != nullptr) {
    arguments.log_sum_exp[(index.entry * shape.heads + row.head) * arguments.log_sum_exp_stride +
                          row.token] = log_sum_exp;
  }
}

/// Block `index`: split and row tile (split + splits * row tile), key/value head, batch entry.
template <AttentionElement Element, int HeadDim, typename Lane>
PORTOLAN_DEVICE void decode_tile(const Lane& machine, const AttentionForwardArguments& arguments,
                                 float* workspace, const BlockIndex& index) {
  using Tiles = DecodeTiles<HeadDim>;
  constexpr int kDepth = HeadDim / kFragmentDepth;
  constexpr int kChunks = HeadDim / kChunkElements;
  const AttentionShape& shape = arguments.shape;
  const DecodePlan plan(shape);
  const AttentionEntry entry = decode_entry(shape, index.entry);
  const ScoreMask& mask = entry.mask;
  const int split = index.tile % plan.splits;
  const int first_row = index.tile / plan.splits * Tiles::kRows;
  const IndexRange keys = plan.keys_of_split(split, mask);
  if (split >= plan.splits_to_merge(mask)) return;

  const int thread = machine.thread();
  const int warp = thread / kWarpLanes;
  const int lane = thread % kWarpLanes;
  const auto* q = static_cast<const std::uint16_t*>(arguments.q);
  PORTOLAN_UNROLL
  for (int i = 0; i < Tiles::kRows * kChunks / Tiles::kThreads; ++i) {
    const int local_row = (i * Tiles::kThreads + thread) / kChunks;
    const int chunk = (i * Tiles::kThreads + thread) % kChunks;
    const bool valid = first_row + local_row < plan.rows;
    const DecodeRow row = decode_row(shape, plan, index, valid ? first_row + local_row : first_row);
    machine.copy_chunk(Tiles::kQueries + chunk_offset<HeadDim>(local_row, chunk),
                       q + entry.query_offset(arguments.q_strides, row.head) +
                           row.token * arguments.q_strides.token + chunk * kChunkElements,
                       valid);
  }
  machine.close_copies();

  HeadRows k = key_rows(entry, arguments.k, arguments.k_strides, index.head);
  HeadRows v = key_rows(entry, arguments.v, arguments.v_strides, index.head);
  k.count = v.count = keys.end;
  const std::uint32_t ring = warp * Tiles::kWarpBytes;
  int next_key = keys.begin + warp * Tiles::kKeys;
  int next_slot = 0;
  const auto start_copy = [&] {
    if (next_key < keys.end) {
      const std::uint32_t to = ring + next_slot * Tiles::kSlotBytes;
      copy_tile<HeadDim, Tiles::kKeys, kWarpLanes>(machine, lane, to, k, next_key);
      copy_tile<HeadDim, Tiles::kKeys, kWarpLanes>(machine, lane, to + Tiles::kSlotBytes / 2, v,
                                                   next_key);
    }
    machine.close_copies();
    next_key += DecodePlan::kSplitGranularity;
    next_slot = next_slot + 1 == Tiles::kSlots ? 0 : next_slot + 1;
  };
  PORTOLAN_UNROLL
  for (int i = 0; i < Tiles::kSlots - 1; ++i) start_copy();

  // Queries were the first group.
  machine.template wait_copies<Tiles::kSlots - 1>();
  machine.block_barrier();
  std::uint32_t queries[kDepth][4];
  const std::uint32_t base = chunk_offset<HeadDim>(row_operand(lane).row, row_operand(lane).chunk);
  PORTOLAN_UNROLL
  for (int step = 0; step < kDepth; ++step) {
    machine.load_matrices(queries[step], Tiles::kQueries + (base ^ depth_step(step)));
  }
  machine.block_barrier();  // keys may take their place: from here on warps go their own ways

  const auto visible_of = [&](int row) {
    const IndexRange seen = mask.keys_of((row < plan.rows ? row : first_row) / plan.group);
    return IndexRange{seen.begin, seen.end < keys.end ? seen.end : keys.end};
  };
  float sums[1][HeadDim / kFragmentColumns][4] = {};
  RowStatistics<1> rows;
  rows.reset();
  const float factor = shape.scale * kLog2E;
  const std::uint32_t key_base =
      chunk_offset<HeadDim>(column_operand(lane).row, column_operand(lane).chunk);
  int slot = 0;
  for (int first_key = keys.begin + warp * Tiles::kKeys; first_key < keys.end;
       first_key += DecodePlan::kSplitGranularity) {
    machine.template wait_copies<Tiles::kSlots - 2>();
    machine.warp_barrier();
    start_copy();
    const std::uint32_t tile = ring + slot * Tiles::kSlotBytes;
    slot = slot + 1 == Tiles::kSlots ? 0 : slot + 1;

    float scores[1][Tiles::kKeys / kFragmentColumns][4] = {};
    PORTOLAN_UNROLL
    for (int step = 0; step < kDepth; ++step) {
      std::uint32_t b[4];
      machine.load_matrices(b, tile + (key_base ^ depth_step(step)));
      machine.template multiply_add<Element>(scores[0][0], queries[step], b[0], b[1]);
      machine.template multiply_add<Element>(scores[0][1], queries[step], b[2], b[3]);
    }
    hide_scores(scores, lane, first_row, first_key, visible_of);
    update_softmax<HeadDim>(machine, scores, rows, sums, factor);
    std::uint32_t weights[1][Tiles::kKeys / kFragmentDepth][4];
    round_scores<Element>(machine, scores, weights);
    accumulate_products<Element, HeadDim>(machine, sums, weights, tile + Tiles::kSlotBytes / 2);
  }

  machine.template wait_copies<0>();
  machine.warp_barrier();  // the warp's own slots take its sums
  PORTOLAN_UNROLL
  for (int half = 0; half < 2; ++half) {
    const int row = fragment_row(lane, 2 * half);
    PORTOLAN_UNROLL
    for (int d = 0; d < HeadDim / kFragmentColumns; ++d) {
      const int column = d * kFragmentColumns + fragment_column(lane, 0);
      machine.store(ring + static_cast<std::uint32_t>((row * Tiles::kMergeStride + column) *
                                                      static_cast<int>(sizeof(float))),
                    FloatPair{sums[0][d][2 * half], sums[0][d][2 * half + 1]});
    }
    const float sum = row_sum(machine, rows.sum[0][half]);
    if (lane % 4 != 0) continue;
    const auto place = static_cast<std::uint32_t>(row * static_cast<int>(sizeof(float)));
    machine.store(ring + Tiles::kMergeMaximum + place, rows.maximum[0][half]);
    machine.store(ring + Tiles::kMergeSum + place, sum);
  }
  machine.block_barrier();
  merge_warps<Element, HeadDim>(machine, arguments, plan, workspace, index, first_row, split);
}

/// Merges the splits of one row of [B, H, Sq], 8 elements of head_dim per thread: `part` is the
/// thread's place among head_dim / 8.
template <AttentionElement Element, typename Lane>
PORTOLAN_DEVICE void merge_splits(const Lane& machine, const AttentionForwardArguments& arguments,
                                  const float* workspace, std::int64_t row, int part) {
  const AttentionShape& shape = arguments.shape;
  const DecodePlan plan(shape);
  const DecodeWorkspace places(shape, plan);
  const auto token = static_cast<int>(row % shape.query_tokens);
  const std::int64_t entry_head = row / shape.query_tokens;
  const auto entry = static_cast<int>(entry_head / shape.heads);
  const int splits = plan.splits_to_merge(decode_entry(shape, entry).mask);
  float maximum = -kInfinity;
  for (int split = 0; split < splits; ++split) {
    const float found = workspace[places.log_sum_exp(row, split)];
    maximum = found > maximum ? found : maximum;
  }
  const float reference = maximum == -kInfinity ? 0.0F : maximum;
  float values[8] = {};
  float sum = 0.0F;
  for (int split = 0; split < splits; ++split) {
    const float weight =
        machine.exp2((workspace[places.log_sum_exp(row, split)] - reference) * kLog2E);
    const float* from = workspace + places.out(row, split) + part * 8;
    sum += weight;
    PORTOLAN_UNROLL
    for (int i = 0; i < 8; ++i) values[i] += weight * from[i];
  }
  const float inverse = sum == 0.0F ? 0.0F : 1.0F / sum;
  PORTOLAN_UNROLL
  for (int i = 0; i < 8; ++i) values[i] *= inverse;
  store_out<Element>(machine, arguments, entry, token, static_cast<int>(entry_head % shape.heads),
                     part * 8, values);
  if (part == 0 && arguments.log_sum_exp != nullptr) {
    arguments.log_sum_exp[entry_head * arguments.log_sum_exp_stride + token] =
        sum == 0.0F ? -kInfinity : maximum + machine.log2(sum) * kLn2;
  }
}

}  // namespace portolan::cuda::sm80
