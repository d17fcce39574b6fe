// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "backends/compat/kokkos.hpp"
#include "backends/portable/norm_backward.hpp"
#include "core/allocator.hpp"
#include "core/backend.hpp"

/// Gradients, losses and optimizers of the device `cpu`: the vector kernels over blocks of work.
/// Semantics are those of the Backend's functions of the same names.
namespace portolan::openmp {

/// These two: false, and nothing done, where an operand has no dense dimension to share.
[[nodiscard]] bool add(const Kokkos::OpenMP& space, const Tensor& x, const Tensor& y);
[[nodiscard]] bool scale(const Kokkos::OpenMP& space, const Tensor& x, float factor);
void dropout(const Kokkos::OpenMP& space, const Tensor& x, float probability, RandomKey key,
             const MatrixBlock& block);
void add_bias(const Kokkos::OpenMP& space, const Tensor& x, const Tensor& bias);
void embedding_backward(const Kokkos::OpenMP& space, const Tensor& ids, const Tensor& grad_out,
                        std::int64_t first_row, const Tensor& grad_table);
/// Root-mean-square norms have no grad_bias.
void norm_backward(const Kokkos::OpenMP& space, CachingAllocator& allocator, const char* label,
                   const Tensor& x, const Tensor& weight, float epsilon,
                   const portable::NormGradients& gradients);
/// x_bias and residual null: the norm alone.
void layer_norm(const Kokkos::OpenMP& space, const char* label, const Tensor& x,
                const Tensor* x_bias, const Tensor* residual, const Tensor& weight,
                const Tensor& bias, float epsilon, const Tensor& out);
void swiglu_backward(const Kokkos::OpenMP& space, const Tensor& gate, const Tensor& up,
                     const Tensor& grad_out, const Tensor& grad_gate, const Tensor& grad_up);
/// The gradient of x where grad_out is not null.
void gelu(const Kokkos::OpenMP& space, const Tensor& x, const Tensor* grad_out, const Tensor& out,
          GeluKind kind);
void softmax(const Kokkos::OpenMP& space, const Tensor& x, const Tensor& out,
             const Tensor& log_sum_exp);
void cross_entropy_rows(const Kokkos::OpenMP& space, const Tensor& logits, const Tensor& labels,
                        std::int64_t first_column, std::int32_t ignore_label, const Tensor& maximum,
                        const Tensor& sum, const Tensor& target);
void cross_entropy_backward(const Kokkos::OpenMP& space, const Tensor& logits, const Tensor& labels,
                            std::int64_t first_column, std::int32_t ignore_label,
                            const Tensor& log_sum_exp, float scale, const Tensor& grad_logits);
void adamw(const Kokkos::OpenMP& space, const Tensor& param, const Tensor& grad,
           const Tensor& first_moment, const Tensor& second_moment, const AdamWStep& step,
           const Tensor& copy);
[[nodiscard]] double sum_of_squares(const Kokkos::OpenMP& space, const Tensor& x);

}  // namespace portolan::openmp
