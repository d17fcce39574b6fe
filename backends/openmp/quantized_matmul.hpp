// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "backends/openmp/general_product.hpp"

namespace portolan::openmp {

/// Backend::matmul by a quantized weight. Few rows stream the integers and widen them in registers
/// (panel_matmul). More rows are worth widening a piece of the panels into scratch, in bf16 if x is
/// and else in f32, for oneDNN: exactly, as the outputs' scales multiply the sums. On CPUs for
/// which oneDNN has no fast products all rows go the first way.
void quantized_matmul(const ProductContext& context, const Tensor& x, const Weight& weight,
                      const Tensor& out, bool accumulate);

/// Backend::pack_rows of a quantized weight.
void quantize_rows(const Kokkos::OpenMP& space, const Tensor& rows, std::int64_t first_row,
                   const Weight& weight);

}  // namespace portolan::openmp
