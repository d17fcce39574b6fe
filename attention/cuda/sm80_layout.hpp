// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "core/dtype.hpp"

/// Where elements lie: in the registers of a warp for mma.sync.m16n8k16 (PTX ISA, "Matrix Fragments
/// for mma.m16n8k16"), and in shared memory for ldmatrix.
namespace portolan::cuda::sm80 {

inline constexpr int kWarpLanes = 32;
inline constexpr int kChunkBytes = 16;     ///< what one lane of ldmatrix points to: a row of 8
inline constexpr int kChunkElements = 8;   ///< 16-bit elements of a chunk
inline constexpr int kFragmentRows = 16;   ///< rows of an accumulator, and of its A operand
inline constexpr int kFragmentDepth = 16;  ///< what a product sums over at once
inline constexpr int kFragmentColumns = 8;

/// Row of accumulator value i (0 to 3) of a lane.
[[nodiscard]] PORTOLAN_HOST_DEVICE constexpr int fragment_row(int lane, int i) {
  return lane / 4 + (i & 2) * 4;
}
/// Column of accumulator value i of a lane; values 0 and 1, 2 and 3 are neighbours.
[[nodiscard]] PORTOLAN_HOST_DEVICE constexpr int fragment_column(int lane, int i) {
  return lane % 4 * 2 + (i & 1);
}

/// A row and a chunk in it.
struct ChunkIndex {
  int row = 0;
  int chunk = 0;
};

/// What a lane points ldmatrix.x4 to, so that the four registers are an A operand of 16 rows and 16
/// deep; and transposed, from a tile whose rows are the depth, the B operands of 16 columns (two
/// registers for each 8).
[[nodiscard]] PORTOLAN_HOST_DEVICE constexpr ChunkIndex row_operand(int lane) {
  return {lane % 16, lane / 16};
}
/// The same for the B operands of 16 columns, 16 deep, from a tile whose rows are the columns.
[[nodiscard]] PORTOLAN_HOST_DEVICE constexpr ChunkIndex column_operand(int lane) {
  return {lane % 8 + lane / 16 * 8, lane / 8 % 2};
}

/// Byte offset of a chunk in a tile of rows of HeadDim elements. Eight rows that follow each other
/// have the same chunk in eight different groups of 4 banks, so that ldmatrix, which reads one
/// chunk of each, meets no conflict. Tiles start at multiples of 1024 bytes.
template <int HeadDim>
[[nodiscard]] PORTOLAN_HOST_DEVICE constexpr std::uint32_t chunk_offset(int row, int chunk) {
  static_assert(HeadDim % 64 == 0, "eight chunks or a multiple are permuted");
  return static_cast<std::uint32_t>((row * (HeadDim / kChunkElements) + (chunk ^ (row % 8))) *
                                    kChunkBytes);
}
/// What to combine an operand's chunk_offset with by exclusive or to move `step` times 16 elements
/// on in its rows, from the first of them.
[[nodiscard]] PORTOLAN_HOST_DEVICE constexpr std::uint32_t depth_step(int step) {
  return static_cast<std::uint32_t>(step * 2 * kChunkBytes);
}

template <int HeadDim>
[[nodiscard]] PORTOLAN_HOST_DEVICE constexpr std::uint32_t tile_bytes(int rows) {
  return static_cast<std::uint32_t>(rows * HeadDim * 2);
}

}  // namespace portolan::cuda::sm80
