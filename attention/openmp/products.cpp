// SPDX-License-Identifier: Apache-2.0
#include "attention/openmp/products.hpp"

#include <libxsmm.h>

namespace portolan::flash {

// libxsmm is column-major: its first operand is the packed one, and its rows are our columns.
ProductCode generate_product(const ProductLayout& layout, const ProductShape& shape) {
  const float alpha = 1.0F;
  const float beta = layout.accumulate ? 1.0F : 0.0F;
  if (layout.format == OperandFormat::single) {
    return reinterpret_cast<ProductCode>(libxsmm_smmdispatch(
        shape.columns, shape.rows, shape.summed, &layout.packed_stride, &layout.row_stride,
        &layout.out_stride, &alpha, &beta, nullptr, nullptr));
  }
  const int flags = LIBXSMM_GEMM_FLAG_VNNI_A | (layout.accumulate ? 0 : LIBXSMM_GEMM_FLAG_BETA_0);
  return reinterpret_cast<ProductCode>(
      libxsmm_bsmmdispatch(shape.columns, shape.rows, shape.summed, &layout.packed_stride,
                           &layout.row_stride, &layout.out_stride, &alpha, &beta, &flags, nullptr));
}

void run_product(OperandFormat format, ProductCode code, const void* packed, const void* rows,
                 float* out) {
  if (format == OperandFormat::single) {
    reinterpret_cast<libxsmm_smmfunction>(code)(static_cast<const float*>(packed),
                                                static_cast<const float*>(rows), out);
  } else {
    reinterpret_cast<libxsmm_bsmmfunction>(code)(static_cast<const libxsmm_bfloat16*>(packed),
                                                 static_cast<const libxsmm_bfloat16*>(rows), out);
  }
}

bool TileProduct::operator()(const ProductShape& shape, const void* rows, const void* packed,
                             float* out) {
  for (const Known& known : known_) {
    if (known.shape != shape) continue;
    run_product(layout_.format, known.code, packed, rows, out);
    return true;
  }
  const ProductCode code = generate_product(layout_, shape);
  if (code == nullptr) return false;
  known_.push_back({shape, code});
  run_product(layout_.format, code, packed, rows, out);
  return true;
}

bool has_products(OperandFormat format) {
  const int needed = format == OperandFormat::single ? LIBXSMM_X86_AVX2 : LIBXSMM_X86_AVX512_CPX;
  if (libxsmm_get_target_archid() < needed) return false;
  // Where memory must not be both writable and executable there is no code whatever the CPU.
  return Products(format, 16, 16).can_run();
}

bool Products::can_run() { return find_scores(kQueryTile, kKeyTile) != nullptr; }

ProductCode Products::find_scores(int rows, int columns) {
  ProductCode& code =
      scores_[static_cast<std::size_t>(columns / 16 - 1)][static_cast<std::size_t>(rows - 1)];
  if (code == nullptr) {
    code = generate_product({.format = format_,
                             .packed_stride = kKeyTile,
                             .row_stride = query_dim_,
                             .out_stride = kKeyTile,
                             .accumulate = false},
                            {.rows = rows, .columns = columns, .summed = query_dim_});
  }
  return code;
}

ProductCode Products::find_accumulate(int rows, int columns) {
  ProductCode& code =
      accumulate_[static_cast<std::size_t>(columns / 16 - 1)][static_cast<std::size_t>(rows - 1)];
  if (code == nullptr) {
    code = generate_product({.format = format_,
                             .packed_stride = value_dim_,
                             .row_stride = kKeyTile,
                             .out_stride = value_dim_,
                             .accumulate = true},
                            {.rows = rows, .columns = value_dim_, .summed = columns});
  }
  return code;
}

bool Products::scores(int rows, int columns, const void* queries, const void* keys, float* scores) {
  const ProductCode code = find_scores(rows, columns);
  if (code == nullptr) return false;
  run_product(format_, code, keys, queries, scores);
  return true;
}

bool Products::accumulate(int rows, int columns, const void* weights, const void* values,
                          float* out) {
  const ProductCode code = find_accumulate(rows, columns);
  if (code == nullptr) return false;
  run_product(format_, code, values, weights, out);
  return true;
}

}  // namespace portolan::flash
