// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "core/dtype.hpp"
#include "core/shape.hpp"

namespace portolan::portable {

/// A strided tensor seen as rows: the last dimension (after merging neighbours that are dense with
/// respect to each other in every operand) and the offset of each row.
template <int kOperands>
struct StridedRows {
  int outer_rank = 0;
  std::int64_t extents[Shape::kMaximumRank] = {};
  std::int64_t strides[kOperands][Shape::kMaximumRank] = {};
  std::int64_t rows = 1;
  std::int64_t columns = 1;
  std::int64_t column_stride[kOperands] = {};

  /// Offset in elements of a row of an operand.
  [[nodiscard]] PORTOLAN_HOST_DEVICE std::int64_t offset(int operand, std::int64_t row) const {
    std::int64_t result = 0;
    for (int dimension = outer_rank - 1; dimension >= 0; --dimension) {
      const std::int64_t next = row / extents[dimension];
      result += (row - next * extents[dimension]) * strides[operand][dimension];
      row = next;
    }
    return result;
  }
};

/// `strides[o]` are the strides of operand o, all of shape `shape`.
template <int kOperands>
StridedRows<kOperands> strided_rows(const Shape& shape, const Shape* const (&strides)[kOperands]) {
  StridedRows<kOperands> result;
  int rank = 0;  // dimensions so far, the last of which is `columns`
  std::int64_t extents[Shape::kMaximumRank] = {};
  std::int64_t merged[kOperands][Shape::kMaximumRank] = {};
  for (int dimension = 0; dimension < shape.rank(); ++dimension) {
    const std::int64_t extent = shape[dimension];
    if (extent == 1) continue;
    bool joins = rank > 0;
    for (int operand = 0; operand < kOperands && joins; ++operand) {
      joins = merged[operand][rank - 1] == (*strides[operand])[dimension] * extent;
    }
    if (!joins) extents[rank++] = 1;
    extents[rank - 1] *= extent;
    for (int operand = 0; operand < kOperands; ++operand) {
      merged[operand][rank - 1] = (*strides[operand])[dimension];
    }
  }
  for (int operand = 0; operand < kOperands; ++operand) result.column_stride[operand] = 1;
  if (rank == 0) return result;
  result.outer_rank = rank - 1;
  result.columns = extents[rank - 1];
  for (int operand = 0; operand < kOperands; ++operand) {
    result.column_stride[operand] = merged[operand][rank - 1];
  }
  for (int dimension = 0; dimension < rank - 1; ++dimension) {
    result.extents[dimension] = extents[dimension];
    result.rows *= extents[dimension];
    for (int operand = 0; operand < kOperands; ++operand) {
      result.strides[operand][dimension] = merged[operand][dimension];
    }
  }
  return result;
}

}  // namespace portolan::portable
