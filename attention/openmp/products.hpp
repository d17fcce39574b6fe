// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>

#include "attention/openmp/tile_operations.hpp"

/// The two products of a tile, in code that libxsmm generates once per shape for the CPU it runs
/// on.
namespace portolan::flash {

/// Generated code, of a type that depends on the operand format.
using ProductCode = void (*)();

/// True if libxsmm multiplies operands of that format on this CPU, in this process.
[[nodiscard]] bool has_products(OperandFormat format);

/// The products for one pair of dimensions. Not thread-safe: each thread has its own, filled from
/// libxsmm's registry as shapes come up.
class Products {
 public:
  /// query_dim is that of packed queries and keys, value_dim that of packed values and out.
  Products(OperandFormat format, int query_dim, int value_dim)
      : format_(format), query_dim_(query_dim), value_dim_(value_dim) {}

  /// scores [rows][columns of kKeyTile] = queries [rows][query_dim] times packed keys. At most
  /// kQueryTile rows; columns a multiple of 16, at most kKeyTile. False if there is no code for it.
  [[nodiscard]] bool scores(int rows, int columns, const void* queries, const void* keys,
                            float* scores);

  /// out [rows][value_dim] += weights [rows][columns of kKeyTile] times packed values; columns a
  /// multiple of 16, for pairs of 32.
  [[nodiscard]] bool accumulate(int rows, int columns, const void* weights, const void* values,
                                float* out);

  [[nodiscard]] bool can_run();

 private:
  using Table = std::array<std::array<ProductCode, kQueryTile>, kKeyTile / 16>;

  [[nodiscard]] ProductCode find_scores(int rows, int columns);
  [[nodiscard]] ProductCode find_accumulate(int rows, int columns);

  OperandFormat format_;
  int query_dim_;
  int value_dim_;
  Table scores_{};
  Table accumulate_{};
};

}  // namespace portolan::flash
