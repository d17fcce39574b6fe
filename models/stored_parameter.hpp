// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "core/tensor_file.hpp"

namespace portolan {

/// A block of a parameter, and the block of a file's tensor that holds it.
struct ParameterPiece {
  const TensorFile* file = nullptr;
  const TensorEntry* tensor = nullptr;
  /// Within the parameter.
  std::int64_t row_begin = 0;
  std::int64_t row_end = 0;
  std::int64_t column_begin = 0;
  std::int64_t column_end = 0;
  /// Where the block starts within the tensor.
  std::int64_t tensor_row = 0;
  std::int64_t tensor_column = 0;
};

/// A parameter as a checkpoint's files hold it: as one tensor, as a part of one, or as blocks of
/// several. All sizes are those of the parameter seen as a matrix (a vector: one column).
struct StoredParameter {
  /// The shape and element type of the whole; its range within a file means nothing.
  TensorEntry description;
  /// They cover the parameter once.
  std::vector<ParameterPiece> pieces;
  /// Above 0: within each head of so many rows the files alternate between the two halves of what
  /// the engine's rotary embedding turns, that is, they store rows 0, D/2, 1, D/2 + 1, ...
  std::int64_t interleaved_head_dim = 0;

  /// The whole of one tensor.
  [[nodiscard]] static StoredParameter whole(const TensorFile& file, const TensorEntry& tensor);

  /// Copies a block to `destination`, dense and row-major, converted to `dtype`. Reads only that
  /// block from the files.
  void read_block(std::int64_t row_begin, std::int64_t row_end, std::int64_t column_begin,
                  std::int64_t column_end, void* destination, DType dtype) const;
};

/// Where row `row` of a parameter of interleaved heads is stored.
[[nodiscard]] constexpr std::int64_t interleaved_row(std::int64_t row, std::int64_t head_dim) {
  const std::int64_t within = row % head_dim;
  const std::int64_t half = head_dim / 2;
  return row - within + 2 * (within % half) + within / half;
}

/// The inverse: which row of the parameter is stored at `row`.
[[nodiscard]] constexpr std::int64_t deinterleaved_row(std::int64_t row, std::int64_t head_dim) {
  const std::int64_t within = row % head_dim;
  return row - within + within / 2 + within % 2 * (head_dim / 2);
}

}  // namespace portolan
