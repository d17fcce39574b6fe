// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <vector>

#include "attention/openmp/tile_operations.hpp"

/// The products of tiles, in code that libxsmm generates once per shape for the CPU it runs
/// on.
namespace portolan::flash {

/// Generated code, of a type that depends on the operand format.
using ProductCode = void (*)();

/// True if libxsmm multiplies operands of that format on this CPU, in this process.
[[nodiscard]] bool has_products(OperandFormat format);

/// A product of row-major rows with a packed operand [summed][columns]. Columns are a multiple of
/// 16 and, for pairs, summed one of 2.
struct ProductShape {
  int rows = 0;
  int columns = 0;
  int summed = 0;

  bool operator==(const ProductShape&) const = default;
};

/// How the operands of products lie, whatever part of them is multiplied. Strides in elements.
struct ProductLayout {
  OperandFormat format = OperandFormat::single;
  int packed_stride = 0;
  int row_stride = 0;
  int out_stride = 0;
  bool accumulate = false;
};

/// Null if there is no code for it.
[[nodiscard]] ProductCode generate_product(const ProductLayout& layout, const ProductShape& shape);
void run_product(OperandFormat format, ProductCode code, const void* packed, const void* rows,
                 float* out);

/// Products of one layout and few shapes. Not thread-safe: each thread has its own, filled from
/// libxsmm's registry as shapes come up.
class TileProduct {
 public:
  explicit TileProduct(const ProductLayout& layout) : layout_(layout) {}

  /// out = rows times packed, or added to it. False if there is no code for it.
  [[nodiscard]] bool operator()(const ProductShape& shape, const void* rows, const void* packed,
                                float* out);

 private:
  struct Known {
    ProductShape shape;
    ProductCode code = nullptr;
  };

  ProductLayout layout_;
  std::vector<Known> known_;
};

/// The products of the forward pass for one pair of dimensions, as TileProduct for the many shapes
/// that a tile may have there.
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
