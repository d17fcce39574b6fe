// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "backends/compat/kokkos.hpp"
#include "backends/openmp/onednn_matmul.hpp"
#include "core/backend.hpp"

namespace portolan::openmp {

/// What a product of two matrices is made with.
struct ProductContext {
  Backend& backend;  ///< whose allocator gives scratch memory, and which converts
  const Kokkos::OpenMP& space;
  OneDnnMatmul& onednn;
};

[[nodiscard]] Tensor scratch(const ProductContext& context, const Shape& shape, DType dtype);
/// The matrix itself or a copy: oneDNN's fast implementations want dense operands.
[[nodiscard]] Tensor dense(const ProductContext& context, const Tensor& matrix, DType dtype);

/// Backend::product: by oneDNN, in f32 or, where the CPU has such products and both operands are of
/// that dtype, in bf16. On CPUs for which oneDNN has no fast products, by panel_matmul.
void general_product(const ProductContext& context, const Tensor& a, bool transpose_a,
                     const Tensor& b, bool transpose_b, const Tensor& out, bool accumulate);

}  // namespace portolan::openmp
