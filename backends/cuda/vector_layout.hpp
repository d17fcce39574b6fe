// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "backends/portable/strided_rows.hpp"
#include "core/dtype.hpp"

/// Which elements the threads of the fused kernels take. Plain arithmetic without a header of CUDA,
/// so that it can be checked on machines without a GPU; kernels use the same functions.
namespace portolan::cuda {

/// Bytes that a thread loads or stores by one instruction: the widest there is, and what it takes
/// to keep a GPU's memory busy.
inline constexpr std::int64_t kVectorBytes = 16;

[[nodiscard]] constexpr std::int64_t vector_elements(DType dtype) {
  return kVectorBytes / static_cast<std::int64_t>(size_of(dtype));
}

[[nodiscard]] inline bool is_vector_aligned(const void* address) {
  return reinterpret_cast<std::uintptr_t>(address) % kVectorBytes == 0;
}

/// Whether all rows of a matrix consist of whole, aligned vectors.
[[nodiscard]] inline bool rows_are_vectors(const void* data, std::int64_t rows,
                                           std::int64_t columns, std::int64_t row_stride,
                                           DType dtype) {
  const std::int64_t elements = vector_elements(dtype);
  return is_vector_aligned(data) && columns % elements == 0 &&
         (rows == 1 || row_stride % elements == 0);
}

/// Threads of a block of the kernels that treat each vector for itself.
inline constexpr int kElementwiseThreads = 256;

/// A vector's place in rows of `per_row` vectors, counted row after row.
struct VectorPlace {
  std::uint32_t row = 0;
  std::uint32_t column = 0;  ///< in vectors

  /// 32 bits: a GPU divides 64 by a subroutine.
  PORTOLAN_HOST_DEVICE constexpr VectorPlace(std::uint32_t index, std::uint32_t per_row)
      : row(index / per_row), column(index - row * per_row) {}
};

/// Most vectors of one launch that a 32-bit index with room for a last, partial block can count.
inline constexpr std::int64_t kMaximumVectors = (std::int64_t{1} << 32) - kElementwiseThreads;

/// Norms: one block per row, whose threads keep it in registers; thread t has the vectors t,
/// t + threads, ... Depends on the row's length alone, so that a row's sum has the same bits
/// whatever the number of rows.
struct NormPlan {
  int threads = 0;             ///< whole warps; 0: the row is too long
  int vectors_per_thread = 0;  ///< 1, 2, 4 or 8
};

inline constexpr int kMaximumNormThreads = 512;

[[nodiscard]] constexpr NormPlan norm_plan(std::int64_t vectors) {
  constexpr std::int64_t kWarp = 32;
  for (const int per_thread : {1, 2, 4, 8}) {
    const std::int64_t threads = (vectors + per_thread - 1) / per_thread;
    const std::int64_t whole_warps = (threads + kWarp - 1) / kWarp * kWarp;
    if (whole_warps <= kMaximumNormThreads) return {static_cast<int>(whole_warps), per_thread};
  }
  return {};
}

/// Rotary embedding: a block turns some heads of one token. Thread (column, head) has one vector of
/// the head's first half and its partner in the second.
struct RotaryPlan {
  int columns = 0;          ///< vectors of half a head; 0: the half is no whole number of vectors
  int heads_per_block = 0;  ///< dealt evenly to the blocks of a token
  int head_blocks = 0;
};

[[nodiscard]] constexpr RotaryPlan rotary_plan(std::int64_t heads, std::int64_t head_dim,
                                               DType dtype) {
  constexpr std::int64_t kThreads = 256;
  const std::int64_t half = head_dim / 2;
  const std::int64_t columns = half / vector_elements(dtype);
  if (half % vector_elements(dtype) != 0 || columns == 0 || columns > kThreads) return {};
  const std::int64_t most = kThreads / columns;
  const std::int64_t blocks = (heads + most - 1) / most;
  return {static_cast<int>(columns), static_cast<int>((heads + blocks - 1) / blocks),
          static_cast<int>(blocks)};
}

/// Blocks of whole short rows, for results that all threads of a row depend on: thread (column,
/// row).
struct RowTile {
  int columns = 0;  ///< vectors of a row; 0: the row is too long
  int rows = 0;
};

[[nodiscard]] constexpr RowTile row_tile(std::int64_t vectors) {
  if (vectors < 1 || vectors > kElementwiseThreads) return {};
  return {static_cast<int>(vectors), static_cast<int>(kElementwiseThreads / vectors)};
}

/// Rows of one product with integer weights: each weight that was read serves all of them.
inline constexpr int kQuantizedRows = 8;
/// Inputs that a thread takes at a time: two words of int8, one of int4.
inline constexpr int kQuantizedStep = 8;

/// Products with integer weights: a block makes kOutputs neighbouring outputs of a panel, a quarter
/// of its width. Its threads stand in lanes of kQuads, which read neighbouring 16 bytes of a word's
/// row, four outputs each; lane l takes the steps l, l + kLanes, ...
struct QuantizedPlace {
  static constexpr int kQuads = 4;
  static constexpr int kOutputs = 4 * kQuads;
  static constexpr int kThreads = 256;
  static constexpr int kLanes = kThreads / kQuads;

  std::int64_t panel = 0;
  int output = 0;  ///< within the panel, the thread's first
  int lane = 0;

  PORTOLAN_HOST_DEVICE constexpr QuantizedPlace(std::int64_t block, int thread, int panel_width)
      : panel(block * kOutputs / panel_width),
        output(static_cast<int>(block * kOutputs % panel_width) + thread % kQuads * 4),
        lane(thread / kQuads) {}
};

/// A copy between strided tensors of one dtype, in vectors.
struct CopyPlan {
  static constexpr int kMaximumOuterRank = 3;

  bool fits = false;
  int outer_rank = 0;
  std::uint32_t columns = 0;  ///< vectors of a row
  std::uint32_t vectors = 0;  ///< of all rows
  std::uint32_t extents[kMaximumOuterRank] = {};
  std::int64_t strides[2][kMaximumOuterRank] = {};  ///< in vectors, of source and target

  /// Where a row begins, in vectors.
  [[nodiscard]] PORTOLAN_HOST_DEVICE constexpr std::int64_t offset(int operand,
                                                                   std::uint32_t row) const {
    std::int64_t result = 0;
    // Of a fixed length, so that nothing is indexed by a variable, which costs a GPU its registers.
    for (int dimension = kMaximumOuterRank - 1; dimension >= 0; --dimension) {
      if (dimension >= outer_rank) continue;
      const VectorPlace place(row, extents[dimension]);
      result += place.column * strides[operand][dimension];
      row = place.row;
    }
    return result;
  }
};

/// `rows` of source and target, whose elements have `element_bytes`; does not fit unless both
/// consist of whole, aligned vectors.
[[nodiscard]] inline CopyPlan copy_plan(const portable::StridedRows<2>& rows, const void* source,
                                        const void* target, std::int64_t element_bytes) {
  const std::int64_t elements = kVectorBytes / element_bytes;
  const std::int64_t vectors = rows.rows * (rows.columns / elements);
  CopyPlan plan;
  if (rows.outer_rank > CopyPlan::kMaximumOuterRank || rows.columns % elements != 0 ||
      vectors > kMaximumVectors || !is_vector_aligned(source) || !is_vector_aligned(target)) {
    return plan;
  }
  plan.outer_rank = rows.outer_rank;
  plan.columns = static_cast<std::uint32_t>(rows.columns / elements);
  plan.vectors = static_cast<std::uint32_t>(vectors);
  for (int operand = 0; operand < 2; ++operand) {
    if (rows.column_stride[operand] != 1) return plan;
    for (int dimension = 0; dimension < rows.outer_rank; ++dimension) {
      if (rows.strides[operand][dimension] % elements != 0) return plan;
      plan.strides[operand][dimension] = rows.strides[operand][dimension] / elements;
      plan.extents[dimension] = static_cast<std::uint32_t>(rows.extents[dimension]);
    }
  }
  plan.fits = true;
  return plan;
}

}  // namespace portolan::cuda
