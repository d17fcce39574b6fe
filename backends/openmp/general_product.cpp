// SPDX-License-Identifier: Apache-2.0
#include "backends/openmp/general_product.hpp"

#include <algorithm>

#include "backends/openmp/blocks.hpp"
#include "backends/openmp/panel_matmul.hpp"
#include "backends/openmp/simd/kernels.hpp"
#include "backends/portable/product.hpp"

namespace portolan::openmp {
namespace {

/// Packing B into panels reads and writes it once; with fewer rows of A than this, that costs more
/// than oneDNN gains.
constexpr std::int64_t kMinimumRowsToPack = 384;
/// A smaller B stays in the second-level cache, from where oneDNN takes it as fast in any layout.
constexpr std::int64_t kMinimumElementsToPack = std::int64_t{1} << 20;

/// With a transposed A and from about 2000 terms on, oneDNN may deal out the terms of a sum to its
/// threads, which makes bits depend on their number; in blocks of so many it does not.
constexpr std::int64_t kTransposedTerms = 1024;

/// B [k, n] as the packed weight [n, k].
Weight pack(const ProductContext& context, const Tensor& b, DType dtype) {
  const std::int64_t in = b.dim(0);
  const std::int64_t out = b.dim(1);
  const Tensor panels = scratch(context, {panel_elements(out, in, dtype)}, dtype);
  const simd::PackColumns arguments{.source_dtype = b.dtype(),
                                    .weight_dtype = dtype,
                                    .source = b.raw(),
                                    .panels = panels.raw(),
                                    .row_stride = b.strides()[0],
                                    .in_features = in,
                                    .out_features = out};
  constexpr std::int64_t kWordBytes = 4;
  const std::int64_t words =
      padded_in_features(in, dtype) * static_cast<std::int64_t>(size_of(dtype)) / kWordBytes;
  for_blocks(
      context.space, "Portolan::Matmul::pack_columns", words, block_items(out * kWordBytes),
      [&](std::int64_t begin, std::int64_t end) { simd::pack_columns(arguments, begin, end); });
  return Weight(panels, WeightLayout::panels, out, in, dtype);
}

/// A dense f32 transpose, in squares that stay in the first-level cache.
Tensor transpose(const ProductContext& context, const Tensor& matrix) {
  constexpr std::int64_t kSquare = 32;
  const Tensor source = dense(context, matrix, DType::f32);
  const std::int64_t rows = matrix.dim(1);
  const std::int64_t columns = matrix.dim(0);
  const Tensor result = scratch(context, {rows, columns}, DType::f32);
  const auto* const from = source.data<const float>();
  auto* const to = result.data<float>();
  for_blocks(context.space, "Portolan::Matmul::transpose", rows, kSquare,
             [&](std::int64_t begin, std::int64_t end) {
               for (std::int64_t first = 0; first < columns; first += kSquare) {
                 const std::int64_t last = std::min(first + kSquare, columns);
                 for (std::int64_t row = begin; row < end; ++row) {
                   for (std::int64_t column = first; column < last; ++column) {
                     to[row * columns + column] = from[column * rows + row];
                   }
                 }
               }
             });
  return result;
}

/// By oneDNN, into a dense result.
void multiply(const ProductContext& context, const Tensor& a, bool transpose_a, const Tensor& b,
              bool transpose_b, DType dtype, const Tensor& out, bool accumulate) {
  const bool packs =
      !transpose_b && out.dim(0) >= kMinimumRowsToPack && b.elements() >= kMinimumElementsToPack;
  const Weight weight = packs ? pack(context, b, dtype) : Weight::plain(dense(context, b, dtype));
  const Tensor x = dense(context, a, dtype);
  OneDnnProblem problem;
  problem.rows = out.dim(0);
  problem.out_features = out.dim(1);
  problem.in_features = a.dim(transpose_a ? 0 : 1);
  problem.x_dtype = problem.weight_dtype = dtype;
  problem.out_dtype = out.dtype();
  problem.layout = weight.layout();
  problem.x_transposed = transpose_a;
  problem.weight_transposed = !packs && !transpose_b;
  problem.accumulate = accumulate;
  context.onednn.multiply(problem, x.raw(), weight.storage().raw(), out.raw());
}

}  // namespace

Tensor scratch(const ProductContext& context, const Shape& shape, DType dtype) {
  const auto bytes = static_cast<std::size_t>(shape.elements()) * size_of(dtype);
  return Tensor(context.backend.allocator().allocate(bytes), 0, shape, dtype,
                context.backend.device());
}

Tensor dense(const ProductContext& context, const Tensor& matrix, DType dtype) {
  if (matrix.is_contiguous() && matrix.dtype() == dtype) return matrix;
  const Tensor result = scratch(context, matrix.shape(), dtype);
  context.backend.copy(matrix, result);
  return result;
}

void general_product(const ProductContext& context, const Tensor& a, bool transpose_a,
                     const Tensor& b, bool transpose_b, const Tensor& out, bool accumulate) {
  const bool one_dtype = a.dtype() == b.dtype();
  const DType dtype =
      one_dtype && context.onednn.has_fast_panels(a.dtype()) ? a.dtype() : DType::f32;
  if (!context.onednn.has_fast_panels(dtype)) {
    const Weight weight = transpose_b ? Weight::plain(b) : pack(context, b, DType::f32);
    panel_matmul(context.space, context.backend.allocator(),
                 transpose_a ? transpose(context, a) : a, weight, out, accumulate);
    return;
  }

  const std::int64_t terms = a.dim(transpose_a ? 0 : 1);
  const std::int64_t block = transpose_a ? kTransposedTerms : terms;
  const bool direct = out.is_contiguous() &&
                      (out.dtype() == DType::f32 || (out.dtype() == dtype && terms <= block));
  const Tensor target = direct ? out : scratch(context, out.shape(), DType::f32);
  for (std::int64_t begin = 0; begin < terms; begin += block) {
    const std::int64_t end = std::min(begin + block, terms);
    multiply(context, a.slice(transpose_a ? 0 : 1, begin, end), transpose_a,
             b.slice(transpose_b ? 1 : 0, begin, end), transpose_b, dtype, target,
             begin > 0 || (accumulate && direct));
  }
  if (!direct) portable::store_product(context.space, target, out, accumulate);
}

}  // namespace portolan::openmp
