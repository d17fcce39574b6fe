// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "core/dtype.hpp"

/// Where warpgroup matrix products (wgmma, PTX ISA, "Asynchronous Warpgroup Level Matrix
/// Instructions") expect which element: arithmetic without any device code, so that a host test can
/// compare it with brute force. Elements are 16 bits wide throughout.
namespace portolan::cuda::sm90 {

/// Threads of a warpgroup, and rows of the result that one of its products has.
constexpr int kWarpgroupThreads = 128;
constexpr int kWarpgroupRows = 64;
/// Depth of one product: elements of the summed dimension.
constexpr int kProductDepth = 16;

/// Shared tiles are stored as TMA's 128-byte swizzle leaves them: blocks of 64 columns, one row of
/// 128 bytes after another, its eight 16-byte chunks permuted by the row's last three bits, so that
/// the same chunk of eight consecutive rows lies in different banks. The pattern repeats every
/// 1024 bytes, to which a tile has to be aligned.
constexpr int kBlockColumns = 64;
constexpr int kBlockRowBytes = 128;
constexpr int kPatternRows = 8;
constexpr int kPatternBytes = kPatternRows * kBlockRowBytes;

struct Coordinate {
  int row = 0;
  int column = 0;
  friend constexpr bool operator==(const Coordinate&, const Coordinate&) = default;
};

/// Bytes of a tile; `columns` a multiple of 64.
[[nodiscard]] PORTOLAN_HOST_DEVICE constexpr int tile_bytes(int rows, int columns) {
  return rows * columns * 2;
}

/// Byte offset of an element of a tile with `rows` rows.
[[nodiscard]] PORTOLAN_HOST_DEVICE constexpr int tile_offset(int rows, Coordinate at) {
  const int block = at.column / kBlockColumns;
  const int chunk = (at.column % kBlockColumns / 8) ^ (at.row % kPatternRows);
  return (block * rows + at.row) * kBlockRowBytes + chunk * 16 + at.column % 8 * 2;
}

/// Element of a 64-row result that accumulator `index` of a thread (0 to 127) holds: an N-column
/// result takes N / 2 accumulators of each thread.
[[nodiscard]] PORTOLAN_HOST_DEVICE constexpr Coordinate accumulator_coordinate(int thread,
                                                                               int index) {
  const int lane = thread % 32;
  return {thread / 32 * 16 + lane / 4 + index / 2 % 2 * 8,
          index / 4 * 8 + lane % 4 * 2 + index % 2};
}
/// Of the two rows that a thread holds, the one that an accumulator belongs to.
[[nodiscard]] PORTOLAN_HOST_DEVICE constexpr int accumulator_row(int index) {
  return index / 2 % 2;
}

/// Element of a 64 x 16 left operand that half `half` of register `index` (0 to 3) holds.
[[nodiscard]] PORTOLAN_HOST_DEVICE constexpr Coordinate operand_coordinate(int thread, int index,
                                                                           int half) {
  const int lane = thread % 32;
  return {thread / 32 * 16 + lane / 4 + index % 2 * 8, lane % 4 * 2 + index / 2 * 8 + half};
}
/// Accumulator that becomes that half of register `index` when 16 columns of a result, from column
/// 16 `step` on, are the left operand of the next product: no element changes its thread.
[[nodiscard]] PORTOLAN_HOST_DEVICE constexpr int operand_accumulator(int step, int index,
                                                                     int half) {
  return step * 8 + index * 2 + half;
}

/// Element whose address lane `lane` gives to a matrix store (stmatrix, four 8 x 8 matrices) of the
/// 16 x 16 part of a warp's rows from column 16 `step` on, registers in the order of
/// operand_accumulator(). The row counts from the warp's first.
[[nodiscard]] PORTOLAN_HOST_DEVICE constexpr Coordinate store_coordinate(int lane, int step) {
  return {lane / 8 % 2 * 8 + lane % 8, step * 16 + lane / 16 * 8};
}

/// Descriptor of an operand in shared memory, 128-byte swizzle. `address` is in bytes, in the
/// shared window. What the two distances mean depends on the operand's order, see below.
[[nodiscard]] PORTOLAN_HOST_DEVICE constexpr std::uint64_t matrix_descriptor(
    std::uint32_t address, std::uint32_t leading_bytes, std::uint32_t stride_bytes) {
  constexpr std::uint64_t kSwizzle128 = 1;
  const auto field = [](std::uint32_t bytes) {
    return static_cast<std::uint64_t>((bytes & 0x3FFFFU) >> 4U);
  };
  return field(address) | field(leading_bytes) << 16U | field(stride_bytes) << 32U |
         kSwizzle128 << 62U;
}

/// The descriptor of what lies `bytes` further, a multiple of 16. Shared memory ends well before
/// its address field does: nothing is carried into the next.
[[nodiscard]] PORTOLAN_HOST_DEVICE constexpr std::uint64_t advanced(std::uint64_t descriptor,
                                                                    int bytes) {
  const auto low =
      static_cast<std::uint32_t>(descriptor) + (static_cast<std::uint32_t>(bytes) >> 4U);
  return (descriptor >> 32U) << 32U | low;
}

/// Descriptor of an operand whose summed dimension runs along a tile's columns (Q and K of Q K^T).
/// Eight rows follow each other every 1024 bytes; the leading distance has no meaning.
[[nodiscard]] PORTOLAN_HOST_DEVICE constexpr std::uint64_t row_operand(std::uint32_t address) {
  return matrix_descriptor(address, 16, kPatternBytes);
}
/// Bytes from the start of a tile of `rows` rows to the columns that product `step` sums over.
[[nodiscard]] PORTOLAN_HOST_DEVICE constexpr int row_operand_step(int rows, int step) {
  constexpr int kStepsInBlock = kBlockColumns / kProductDepth;
  return step / kStepsInBlock * rows * kBlockRowBytes + step % kStepsInBlock * kProductDepth * 2;
}

/// Descriptor of a right operand whose summed dimension runs along a tile's rows (V of P V): the
/// next 64 columns are a block away, the next eight rows 1024 bytes.
[[nodiscard]] PORTOLAN_HOST_DEVICE constexpr std::uint64_t column_operand(std::uint32_t address,
                                                                          int rows) {
  return matrix_descriptor(address, static_cast<std::uint32_t>(rows * kBlockRowBytes),
                           kPatternBytes);
}
[[nodiscard]] PORTOLAN_HOST_DEVICE constexpr int column_operand_step(int step) {
  return step * kProductDepth * kBlockRowBytes;
}

}  // namespace portolan::cuda::sm90
