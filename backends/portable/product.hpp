// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "backends/compat/kokkos_kernels.hpp"
#include "backends/portable/dispatch.hpp"
#include "backends/portable/elementwise.hpp"
#include "backends/portable/matmul.hpp"
#include "core/allocator.hpp"
#include "core/tensor.hpp"

namespace portolan::portable {

/// The matrix in f32: itself, or a copy.
template <class Space>
Tensor as_f32(const Space& space, CachingAllocator& allocator, const Tensor& matrix) {
  if (matrix.dtype() == DType::f32) return matrix;
  const auto bytes = static_cast<std::size_t>(matrix.elements()) * sizeof(float);
  const Tensor result(allocator.allocate(bytes), 0, matrix.shape(), DType::f32, matrix.device());
  copy(space, matrix, result);
  return result;
}

/// Adds or copies a product in f32 to where it goes.
template <class Space>
void store_product(const Space& space, const Tensor& product, const Tensor& out, bool accumulate) {
  dispatch_floating(out.dtype(), [&](auto type) {
    using T = typename decltype(type)::type;
    for_rows(space, "Portolan::Matmul::store", out.dim(0), out.dim(1),
             StoreProduct<T>{product.data<float>(), out.data<T>(), product.strides()[0],
                             out.strides()[0], accumulate});
  });
}

/// out = op(a) op(b) (+ out) in f32 by Kokkos Kernels. What is not f32 is converted as a whole:
/// these are activations and gradients, which live for one step.
template <class Space>
void product(const Space& space, CachingAllocator& allocator, const Tensor& a, bool transpose_a,
             const Tensor& b, bool transpose_b, const Tensor& out, bool accumulate) {
  const auto view = [](const Tensor& matrix) {
    // A single row may have any stride; one too short would give an empty view.
    const std::int64_t stride = matrix.dim(0) == 1 ? matrix.dim(1) : matrix.strides()[0];
    return matrix_view<Space>(matrix.data<const float>(), matrix.dim(0), matrix.dim(1), stride);
  };
  const Tensor left = as_f32(space, allocator, a);
  const Tensor right = as_f32(space, allocator, b);
  const bool direct = out.dtype() == DType::f32;
  Tensor result = out;
  if (!direct) {
    const auto bytes = static_cast<std::size_t>(out.elements()) * sizeof(float);
    result = Tensor(allocator.allocate(bytes), 0, out.shape(), DType::f32, out.device());
  }
  const std::int64_t stride = result.dim(0) == 1 ? result.dim(1) : result.strides()[0];
  compat::gemm(space, transpose_a, transpose_b, view(left), view(right),
               direct && accumulate ? 1.0F : 0.0F,
               matrix_view<Space>(result.data<float>(), result.dim(0), result.dim(1), stride));
  if (!direct) store_product(space, result, out, accumulate);
}

}  // namespace portolan::portable
