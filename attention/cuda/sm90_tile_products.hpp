// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#include "attention/cuda/attention_arguments.hpp"
#include "attention/cuda/device_function.hpp"
#include "attention/cuda/sm90_buffers.hpp"
#include "attention/cuda/sm90_layout.hpp"

/// A warpgroup's work on whole tiles, over a `Lane` (sm90_lane.cuh).
namespace portolan::cuda::sm90 {

/// d = A B^T: the 64 rows that start at address `a`, of a tile of kRowsA, by the kColumns rows of
/// tile B, summed over kDepth columns. Starts the products only.
template <AttentionElement kElement, int kDepth, int kRowsA, int kColumns, typename Lane>
PORTOLAN_DEVICE void multiply_rows(const Lane& lane, float (&d)[kColumns / 2], std::uint32_t a,
                                   std::uint32_t b) {
  const std::uint64_t a_start = row_operand(a);
  const std::uint64_t b_start = row_operand(b);
  PORTOLAN_UNROLL
  for (int step = 0; step < kDepth / kProductDepth; ++step) {
    lane.template shared_product<kElement>(d, advanced(a_start, row_operand_step(kRowsA, step)),
                                           advanced(b_start, row_operand_step(kColumns, step)),
                                           step > 0);
  }
}

/// d += A B: A in registers (pack_operand()), by the kDepth rows of tile B. Starts the products
/// only.
template <AttentionElement kElement, int kDepth, int kColumns, typename Lane>
PORTOLAN_DEVICE void multiply_columns(const Lane& lane, float (&d)[kColumns / 2],
                                      const std::uint32_t (&a)[kDepth / 4], std::uint32_t b) {
  const std::uint64_t start = column_operand(b, kDepth);
  PORTOLAN_UNROLL
  for (int step = 0; step < kDepth / kProductDepth; ++step) {
    lane.template register_product<kElement>(d, a, 4 * step,
                                             advanced(start, column_operand_step(step)));
  }
}

/// A result as the left operand of the next product.
template <AttentionElement kElement, int kCount, typename Lane>
PORTOLAN_DEVICE void pack_operand(const Lane& lane, std::uint32_t (&operand)[kCount / 2],
                                  const float (&accumulators)[kCount]) {
  PORTOLAN_UNROLL
  for (int i = 0; i < kCount / 2; ++i) {
    operand[i] = lane.template pack<kElement>(accumulators[operand_accumulator(i / 4, i % 4, 0)],
                                              accumulators[operand_accumulator(i / 4, i % 4, 1)]);
  }
}

/// Writes a warpgroup's 64-row result, times a factor for each of a thread's two rows, to 64 rows
/// of a shared tile of kTileRows; `first_row` is the address of the first of them.
template <AttentionElement kElement, int kTileRows, int kCount, typename Lane>
PORTOLAN_DEVICE void store_rows(const Lane& lane, std::uint32_t first_row,
                                const float (&accumulators)[kCount], const float (&factors)[2]) {
  // Pinned, lest addresses be derived early and take registers while products run.
  std::uint32_t pinned[1] = {static_cast<std::uint32_t>(lane.thread() % kWarpgroupThreads)};
  lane.pin(pinned);
  const int thread = static_cast<int>(pinned[0]);
  PORTOLAN_UNROLL
  for (int step = 0; step < kCount / 8; ++step) {
    std::uint32_t registers[4];
    PORTOLAN_UNROLL
    for (int i = 0; i < 4; ++i) {
      const int low = operand_accumulator(step, i, 0);
      const int high = operand_accumulator(step, i, 1);
      registers[i] =
          lane.template pack<kElement>(accumulators[low] * factors[accumulator_row(low)],
                                       accumulators[high] * factors[accumulator_row(high)]);
    }
    Coordinate at = store_coordinate(thread % 32, step);
    at.row += thread / 32 * 16;
    lane.store_matrices(first_row + static_cast<std::uint32_t>(tile_offset(kTileRows, at)),
                        registers);
  }
}

struct alignas(8) FloatPair {
  float first;
  float second;
};
/// Writes a warpgroup's result, times a factor for each of a thread's two rows, to as many rows and
/// columns of an f32 tensor, or adds it to them. `first_row` is the address of the first row, whose
/// columns are even in number.
template <int kCount, typename Lane>
PORTOLAN_DEVICE void write_rows(const Lane& lane, float* first_row, std::int64_t row_stride,
                                int rows, int columns, bool adds,
                                const float (&accumulators)[kCount], const float (&factors)[2]) {
  const int thread = lane.thread() % kWarpgroupThreads;
  PORTOLAN_UNROLL
  for (int i = 0; i < kCount; i += 2) {
    const Coordinate at = accumulator_coordinate(thread, i);
    if (at.row >= rows || at.column >= columns) continue;
    auto* target = reinterpret_cast<FloatPair*>(first_row + at.row * row_stride + at.column);
    const float factor = factors[accumulator_row(i)];
    FloatPair value = {accumulators[i] * factor, accumulators[i + 1] * factor};
    if (adds) {
      const FloatPair before = *target;
      value.first += before.first;
      value.second += before.second;
    }
    *target = value;
  }
}

/// Starts the copies of a tile of kRows tokens, block by block of its kColumns columns.
template <int kRows, int kColumns, typename Lane>
PORTOLAN_DEVICE void copy_tile_in(const Lane& lane, const typename Lane::TensorMap* map,
                                  BoxOrigin origin, std::byte* target, std::uint64_t& barrier) {
  PORTOLAN_UNROLL
  for (int column = 0; column < kColumns; column += kBlockColumns) {
    origin.column = column;
    lane.copy_box_in(map, origin, target + tile_offset(kRows, {0, column}), barrier);
  }
}
/// Starts the copies of a box's rows out of a tile of kTileRows, from `first_row` on.
template <int kTileRows, int kColumns, typename Lane>
PORTOLAN_DEVICE void copy_rows_out(const Lane& lane, const typename Lane::TensorMap* map,
                                   BoxOrigin origin, const std::byte* first_row) {
  PORTOLAN_UNROLL
  for (int column = 0; column < kColumns; column += kBlockColumns) {
    origin.column = column;
    lane.copy_box_out(map, origin, first_row + tile_offset(kTileRows, {0, column}));
  }
}

/// Tells the producer that this warp is done with a buffer.
template <typename Lane>
PORTOLAN_DEVICE void release(const Lane& lane, std::uint64_t& empty) {
  lane.warp_barrier();
  if (lane.thread() % 32 == 0) {
    lane.barrier_arrive(empty);
  }
}

}  // namespace portolan::cuda::sm90
