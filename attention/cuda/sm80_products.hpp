// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "attention/cuda/attention_arguments.hpp"
#include "attention/cuda/device_function.hpp"
#include "attention/cuda/lane.hpp"
#include "attention/cuda/score_mask.hpp"
#include "attention/cuda/sm80_layout.hpp"

/// What one warp does with tiles in shared memory and scores in registers. Scores are [row tiles of
/// 16][column tiles of 8][4], the layout of accumulators.
namespace portolan::cuda::sm80 {

/// Where the entry lies, looked up again rather than kept in registers, which are short.
template <typename Lane>
PORTOLAN_DEVICE AttentionEntry entry_again(const Lane& machine, const AttentionShape& shape,
                                           int index) {
  return {shape, static_cast<int>(machine.opaque(static_cast<std::uint32_t>(index)))};
}

/// The rows of one head of a tensor.
struct HeadRows {
  const std::uint16_t* data;   ///< row 0
  const std::int64_t& stride;  ///< read where it is: held, it would take registers
  int count;
};
PORTOLAN_DEVICE HeadRows query_rows(const AttentionEntry& entry, const void* tensor,
                                    const AttentionStrides& strides, int head) {
  return {static_cast<const std::uint16_t*>(tensor) + entry.query_offset(strides, head),
          strides.token, entry.mask.queries};
}
PORTOLAN_DEVICE HeadRows key_rows(const AttentionEntry& entry, const void* tensor,
                                  const AttentionStrides& strides, int head) {
  return {static_cast<const std::uint16_t*>(tensor) + entry.key_offset(strides, head),
          strides.token, entry.mask.keys};
}

/// Copies rows [first, first + Rows) to a tile, zeros for those past the last one. `lane` is one of
/// Threads that share the work.
template <int HeadDim, int Rows, int Threads, typename Lane>
PORTOLAN_DEVICE void copy_tile(const Lane& machine, int lane, std::uint32_t tile,
                               const HeadRows& rows, int first) {
  constexpr int kChunks = HeadDim / kChunkElements;
  static_assert(Threads % kChunks == 0 && Rows * kChunks % Threads == 0);
  constexpr int kStep = Threads / kChunks;
  const auto worker = static_cast<int>(machine.opaque(static_cast<std::uint32_t>(lane)));
  const int chunk = worker % kChunks;
  const int row = worker / kChunks;
  const int left = rows.count - first - row;  // rows from this thread's first one on
  // One address that moves on takes fewer registers than one for each row.
  const std::uint16_t* from = rows.data + chunk * kChunkElements;
  if (left > 0) from += (first + row) * rows.stride;
  PORTOLAN_UNROLL
  for (int i = 0; i < Rows / kStep; ++i) {
    const bool valid = i * kStep < left;
    machine.copy_chunk(tile + chunk_offset<HeadDim>(row + i * kStep, chunk), from, valid);
    if ((i + 1) * kStep < left) from += kStep * rows.stride;
  }
}

/// scores = rows columns^T, summed over HeadDim; both tiles [.., HeadDim], `rows` from the warp's
/// first row on.
template <AttentionElement Element, int HeadDim, int RowTiles, int ColumnTiles, typename Lane>
PORTOLAN_DEVICE void multiply_tiles(const Lane& machine, float (&scores)[RowTiles][ColumnTiles][4],
                                    std::uint32_t rows, std::uint32_t columns) {
  static_assert(ColumnTiles % 2 == 0);
  const int lane = machine.thread() % kWarpLanes;
  const std::uint32_t row_base =
      machine.opaque(chunk_offset<HeadDim>(row_operand(lane).row, row_operand(lane).chunk));
  const std::uint32_t column_base =
      machine.opaque(chunk_offset<HeadDim>(column_operand(lane).row, column_operand(lane).chunk));
  PORTOLAN_UNROLL
  for (int r = 0; r < RowTiles; ++r) {
    PORTOLAN_UNROLL
    for (int c = 0; c < ColumnTiles; ++c) {
      PORTOLAN_UNROLL
      for (int i = 0; i < 4; ++i) scores[r][c][i] = 0.0F;
    }
  }
  PORTOLAN_UNROLL
  for (int step = 0; step < HeadDim / kFragmentDepth; ++step) {
    std::uint32_t a[RowTiles][4];
    PORTOLAN_UNROLL
    for (int r = 0; r < RowTiles; ++r) {
      machine.load_matrices(
          a[r], rows + tile_bytes<HeadDim>(r * kFragmentRows) + (row_base ^ depth_step(step)));
    }
    PORTOLAN_UNROLL
    for (int c = 0; c < ColumnTiles; c += 2) {
      std::uint32_t b[4];
      machine.load_matrices(b, columns + tile_bytes<HeadDim>(c * kFragmentColumns) +
                                   (column_base ^ depth_step(step)));
      PORTOLAN_UNROLL
      for (int r = 0; r < RowTiles; ++r) {
        machine.template multiply_add<Element>(scores[r][c], a[r], b[0], b[1]);
        machine.template multiply_add<Element>(scores[r][c + 1], a[r], b[2], b[3]);
      }
    }
  }
}

/// Scores rounded to 16 bits, as the A operands of a product that sums over their columns.
template <AttentionElement Element, int RowTiles, int ColumnTiles, typename Lane>
PORTOLAN_DEVICE void round_scores(const Lane& machine,
                                  const float (&scores)[RowTiles][ColumnTiles][4],
                                  std::uint32_t (&rounded)[RowTiles][ColumnTiles / 2][4]) {
  PORTOLAN_UNROLL
  for (int r = 0; r < RowTiles; ++r) {
    PORTOLAN_UNROLL
    for (int c = 0; c < ColumnTiles; ++c) {
      const float(&from)[4] = scores[r][c];
      std::uint32_t(&to)[4] = rounded[r][c / 2];
      to[c % 2 * 2] = machine.template pack<Element>(from[0], from[1]);
      to[c % 2 * 2 + 1] = machine.template pack<Element>(from[2], from[3]);
    }
  }
}

/// sums += weights values: weights [rows, 16 Depth] in registers, values a tile [16 Depth,
/// HeadDim].
template <AttentionElement Element, int HeadDim, int RowTiles, int Depth, typename Lane>
PORTOLAN_DEVICE void accumulate_products(const Lane& machine,
                                         float (&sums)[RowTiles][HeadDim / kFragmentColumns][4],
                                         const std::uint32_t (&weights)[RowTiles][Depth][4],
                                         std::uint32_t values) {
  const int lane = machine.thread() % kWarpLanes;
  const std::uint32_t base =
      machine.opaque(chunk_offset<HeadDim>(row_operand(lane).row, row_operand(lane).chunk));
  PORTOLAN_UNROLL
  for (int d = 0; d < Depth; ++d) {
    PORTOLAN_UNROLL
    for (int step = 0; step < HeadDim / kFragmentDepth; ++step) {
      std::uint32_t b[4];
      machine.load_transposed_matrices(
          b, values + tile_bytes<HeadDim>(d * kFragmentDepth) + (base ^ depth_step(step)));
      PORTOLAN_UNROLL
      for (int r = 0; r < RowTiles; ++r) {
        machine.template multiply_add<Element>(sums[r][2 * step], weights[r][d], b[0], b[1]);
        machine.template multiply_add<Element>(sums[r][2 * step + 1], weights[r][d], b[2], b[3]);
      }
    }
  }
}

/// Sets scores that a row does not see to -infinity. `visible_of(row)` are the columns that a row
/// sees; the scores' first row and column are `first_row` and `first_column`. It is asked here and
/// not kept: few tiles are cut by a mask, and registers are short.
template <int RowTiles, int ColumnTiles, typename Visible>
PORTOLAN_DEVICE void hide_scores(float (&scores)[RowTiles][ColumnTiles][4], int lane, int first_row,
                                 int first_column, const Visible& visible_of) {
  PORTOLAN_UNROLL
  for (int r = 0; r < RowTiles; ++r) {
    PORTOLAN_UNROLL
    for (int half = 0; half < 2; ++half) {
      const IndexRange visible =
          visible_of(first_row + r * kFragmentRows + fragment_row(lane, 2 * half));
      PORTOLAN_UNROLL
      for (int c = 0; c < ColumnTiles; ++c) {
        PORTOLAN_UNROLL
        for (int i = 2 * half; i < 2 * half + 2; ++i) {
          const int column = first_column + c * kFragmentColumns + fragment_column(lane, i);
          if (!visible.contains(column)) scores[r][c][i] = -kInfinity;
        }
      }
    }
  }
}

/// Over the four lanes that hold one row.
template <typename Lane>
PORTOLAN_DEVICE float row_maximum(const Lane& machine, float value) {
  const float pair = machine.shuffle_xor(value, 1);
  value = value > pair ? value : pair;
  const float others = machine.shuffle_xor(value, 2);
  return value > others ? value : others;
}
template <typename Lane>
PORTOLAN_DEVICE float row_sum(const Lane& machine, float value) {
  value += machine.shuffle_xor(value, 1);
  return value + machine.shuffle_xor(value, 2);
}

/// A result's first row of a head, in elements of its type.
PORTOLAN_DEVICE void* result_row(void* result, AttentionOutput output, std::int64_t offset) {
  if (output == AttentionOutput::element) return static_cast<std::uint16_t*>(result) + offset;
  return static_cast<float*>(result) + offset;
}

/// Writes a warp's sums to rows [first, rows) of `out`, which points to row 0. `staging` is a tile
/// that only this warp still uses, with room for its rows: 16-bit elements pass through it, so that
/// each thread writes 16 bytes.
template <AttentionElement Element, int HeadDim, int RowTiles, typename Lane>
PORTOLAN_DEVICE void store_sums(const Lane& machine,
                                const float (&sums)[RowTiles][HeadDim / kFragmentColumns][4],
                                std::uint32_t staging, void* out, AttentionOutput output,
                                std::int64_t stride, int first, int rows) {
  const int lane = machine.thread() % kWarpLanes;
  constexpr int kChunks = HeadDim / kChunkElements;
  if (output == AttentionOutput::element) {
    PORTOLAN_UNROLL
    for (int r = 0; r < RowTiles; ++r) {
      PORTOLAN_UNROLL
      for (int c = 0; c < kChunks; ++c) {
        PORTOLAN_UNROLL
        for (int i = 0; i < 4; i += 2) {
          machine.store(staging +
                            chunk_offset<HeadDim>(r * kFragmentRows + fragment_row(lane, i), c) +
                            static_cast<std::uint32_t>(fragment_column(lane, i) * 2),
                        machine.template pack<Element>(sums[r][c][i], sums[r][c][i + 1]));
        }
      }
    }
    machine.warp_barrier();
    PORTOLAN_UNROLL
    for (int i = 0; i < RowTiles * kFragmentRows * kChunks / kWarpLanes; ++i) {
      const int row = (i * kWarpLanes + lane) / kChunks;
      const int chunk = (i * kWarpLanes + lane) % kChunks;
      if (first + row >= rows) continue;
      std::uint16_t* to =
          static_cast<std::uint16_t*>(out) + (first + row) * stride + chunk * kChunkElements;
      *reinterpret_cast<Chunk*>(to) =
          machine.template load<Chunk>(staging + chunk_offset<HeadDim>(row, chunk));
    }
    return;
  }
  PORTOLAN_UNROLL
  for (int r = 0; r < RowTiles; ++r) {
    PORTOLAN_UNROLL
    for (int i = 0; i < 4; i += 2) {
      const int row = first + r * kFragmentRows + fragment_row(lane, i);
      if (row >= rows) continue;
      float* to = static_cast<float*>(out) + row * stride + fragment_column(lane, i);
      PORTOLAN_UNROLL
      for (int c = 0; c < kChunks; ++c) {
        FloatPair pair{sums[r][c][i], sums[r][c][i + 1]};
        auto* place = reinterpret_cast<FloatPair*>(to + c * kFragmentColumns);
        if (output == AttentionOutput::f32_sum) {
          const FloatPair before = *place;
          pair = {before.first + pair.first, before.second + pair.second};
        }
        *place = pair;
      }
    }
  }
}

}  // namespace portolan::cuda::sm80
