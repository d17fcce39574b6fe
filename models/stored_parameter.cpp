// SPDX-License-Identifier: Apache-2.0
#include "models/stored_parameter.hpp"

#include <algorithm>

namespace portolan {
namespace {

/// One piece's part of a block, which lies at `destination` with rows `stride` elements apart.
void read_part(const ParameterPiece& piece, std::int64_t interleaved_head_dim,
               const ParameterPiece& part, std::byte* destination, DType dtype,
               std::int64_t stride) {
  const std::int64_t column = part.column_begin - piece.column_begin + piece.tensor_column;
  const std::int64_t width = part.column_end - part.column_begin;
  const auto read_rows = [&](std::int64_t begin, std::int64_t end, std::byte* target) {
    piece.file->read_block(*piece.tensor, piece.tensor_row + begin, piece.tensor_row + end, column,
                           column + width, target, dtype, stride);
  };
  const std::int64_t first = part.row_begin - piece.row_begin;
  const std::int64_t last = part.row_end - piece.row_begin;
  if (interleaved_head_dim == 0) {
    read_rows(first, last, destination);
    return;
  }
  const std::size_t row_bytes = static_cast<std::size_t>(stride) * size_of(dtype);
  for (std::int64_t row = first; row < last; ++row, destination += row_bytes) {
    const std::int64_t stored = interleaved_row(row, interleaved_head_dim);
    read_rows(stored, stored + 1, destination);
  }
}

}  // namespace

StoredParameter StoredParameter::whole(const TensorFile& file, const TensorEntry& tensor) {
  return {tensor, {{&file, &tensor, 0, tensor.rows(), 0, tensor.columns(), 0, 0}}, 0};
}

void StoredParameter::read_block(std::int64_t row_begin, std::int64_t row_end,
                                 std::int64_t column_begin, std::int64_t column_end,
                                 void* destination, DType dtype) const {
  const std::int64_t width = column_end - column_begin;
  for (const ParameterPiece& piece : pieces) {
    ParameterPiece part = piece;
    part.row_begin = std::max(row_begin, piece.row_begin);
    part.row_end = std::min(row_end, piece.row_end);
    part.column_begin = std::max(column_begin, piece.column_begin);
    part.column_end = std::min(column_end, piece.column_end);
    if (part.row_begin >= part.row_end || part.column_begin >= part.column_end) continue;
    const std::int64_t first =
        (part.row_begin - row_begin) * width + part.column_begin - column_begin;
    read_part(
        piece, interleaved_head_dim, part,
        static_cast<std::byte*>(destination) + static_cast<std::size_t>(first) * size_of(dtype),
        dtype, width);
  }
}

}  // namespace portolan
