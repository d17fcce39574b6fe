// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <type_traits>

#include "attention/portable/products.hpp"

/// What methods that go row by row share: products of one row with a stretch of rows of an operand,
/// done by one thread.
namespace portolan::portable {

/// Copies a row to f32.
KOKKOS_INLINE_FUNCTION void read_row(const Operand& operand, std::int64_t batch, std::int64_t token,
                                     std::int64_t head, int head_dim, float* row) {
  operand.at(batch, token, head, [&](const auto* values) {
    for (int d = 0; d < head_dim; ++d) row[d] = to_float(values[d]);
  });
}

/// Writes factor * row, or adds it to what is there.
KOKKOS_INLINE_FUNCTION void write_row(const Operand& operand, std::int64_t batch,
                                      std::int64_t token, std::int64_t head, int head_dim,
                                      const float* row, float factor, bool accumulate = false) {
  operand.at(batch, token, head, [&](auto* values) {
    using Value = std::remove_pointer_t<decltype(values)>;
    for (int d = 0; d < head_dim; ++d) {
      const float before = accumulate ? to_float(values[d]) : 0.0F;
      values[d] = from_float<Value>(before + factor * row[d]);
    }
  });
}

/// products[i] = factor * row . operand row of token rows.row + i.
KOKKOS_INLINE_FUNCTION void multiply_rows(const float* row, const Operand& operand,
                                          std::int64_t batch, std::int64_t head,
                                          const RowTile& rows, int head_dim, float factor,
                                          float* products) {
  operand.at(batch, rows.row, head, [&](const auto* values) {
    dot_products(row, values, operand.token_stride, rows.length, head_dim, factor, products);
  });
}

/// row += sum over i of weights(i) * operand row of token rows.row + i.
template <typename Weights>
KOKKOS_INLINE_FUNCTION void add_weighted_rows(const Weights& weights, const Operand& operand,
                                              std::int64_t batch, std::int64_t head,
                                              const RowTile& rows, int head_dim, float* row) {
  operand.at(batch, rows.row, head, [&](const auto* values) {
    add_products(weights, values, operand.token_stride, rows.length, head_dim, row);
  });
}

/// Cuts a stretch of rows into parts of at most kChunk and calls `function(part)` for each.
inline constexpr int kChunk = 64;
template <typename Function>
KOKKOS_INLINE_FUNCTION void for_chunks(const RowTile& rows, const Function& function) {
  for (std::int64_t begin = rows.row; begin < rows.row + rows.length; begin += kChunk) {
    function(rows_within(rows, begin, begin + kChunk));
  }
}

}  // namespace portolan::portable
