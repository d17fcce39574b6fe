// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>

#include "core/backend.hpp"
#include "core/tensor.hpp"
#include "core/weight.hpp"

/// The operations that models and parallel code call. Each checks shapes, dtypes and devices
/// (throws UsageError naming the rule and what was found), then asks the tensor's device for its
/// Backend. Semantics are documented at the Backend's functions of the same names.
namespace portolan::ops {

void fill(const Tensor& out, float value);
void copy(const Tensor& source, const Tensor& out);
void random_uniform(const Tensor& out, RandomKey key, const MatrixBlock& block, float mean,
                    float scale);
void sum(std::span<const Tensor> inputs, std::span<const Tensor> outs);
void add(const Tensor& x, const Tensor& y);
void scale(const Tensor& x, float factor);
void dropout(const Tensor& x, float probability, RandomKey key, const MatrixBlock& block);
void add_bias(const Tensor& x, const Tensor& bias);
void add_bias_backward(const Tensor& grad_out, const Tensor& grad_bias);

void embedding(const Tensor& ids, const Tensor& table, std::int64_t first_row, const Tensor& out);
void embedding_backward(const Tensor& ids, const Tensor& grad_out, std::int64_t first_row,
                        const Tensor& grad_table);
void rms_norm(const Tensor& x, const Tensor& weight, float epsilon, const Tensor& out);
void add_rms_norm(const Tensor& x, const Tensor& residual, const Tensor& weight, float epsilon,
                  const Tensor& out);
void rms_norm_backward(const Tensor& x, const Tensor& weight, float epsilon, const Tensor& grad_out,
                       const Tensor& grad_x, const Tensor& grad_weight, bool accumulate_x = false);
void layer_norm(const Tensor& x, const Tensor& weight, const Tensor& bias, float epsilon,
                const Tensor& out);
void add_layer_norm(const Tensor& x, const Tensor& x_bias, const Tensor& residual,
                    const Tensor& weight, const Tensor& bias, float epsilon, const Tensor& out);
void layer_norm_backward(const Tensor& x, const Tensor& weight, float epsilon,
                         const Tensor& grad_out, const Tensor& grad_x, const Tensor& grad_weight,
                         const Tensor& grad_bias, bool accumulate_x = false);
void rotary_embedding(const Tensor& x, const Tensor& positions, const Tensor& cosines,
                      const Tensor& sines, bool inverse = false);
void store_cache_rows(const Tensor& k, const Tensor& v, const CacheRows& cache);
void rotary_store_cache_rows(const Tensor& x, const Tensor& positions, const Tensor& cosines,
                             const Tensor& sines, const CacheRows& cache);
void swiglu(const Tensor& gate, const Tensor& up, const Tensor& out);
void swiglu_backward(const Tensor& gate, const Tensor& up, const Tensor& grad_out,
                     const Tensor& grad_gate, const Tensor& grad_up);
void gelu(const Tensor& x, const Tensor& out, GeluKind kind);
void gelu_backward(const Tensor& x, const Tensor& grad_out, const Tensor& grad_x, GeluKind kind);

void softmax(const Tensor& x, const Tensor& out, const Tensor& log_sum_exp);
void softmax_backward(const Tensor& out, const Tensor& grad_out, const Tensor& grad_x);
void cross_entropy_rows(const Tensor& logits, const Tensor& labels, std::int64_t first_column,
                        std::int32_t ignore_label, const Tensor& maximum, const Tensor& sum,
                        const Tensor& target);
void cross_entropy_backward(const Tensor& logits, const Tensor& labels, std::int64_t first_column,
                            std::int32_t ignore_label, const Tensor& log_sum_exp, float scale,
                            const Tensor& grad_logits);

void choose_tokens(const Tensor& logits, const Tensor& seen, const TokenChoice& choice,
                   const Tensor& sequences, std::int64_t step, const Tensor& ids);

void adamw(const Tensor& param, const Tensor& grad, const Tensor& first_moment,
           const Tensor& second_moment, const AdamWStep& step, const Tensor& copy = {});
void sgd(const Tensor& param, const Tensor& grad, const Tensor& momentum_buffer,
         const SgdStep& step);
[[nodiscard]] double sum_of_squares(const Tensor& x);

void pack_rows(const Tensor& rows, std::int64_t first_row, const Weight& weight);
void matmul(const Tensor& x, const Weight& weight, const Tensor& out, bool accumulate = false);
void matmul_bias(const Tensor& x, const Weight& weight, const Tensor& bias, const Tensor& out);
void product(const Tensor& a, bool transpose_a, const Tensor& b, bool transpose_b,
             const Tensor& out, bool accumulate = false);

/// The elements dense in host memory, after the device has written them: the tensor itself if it is
/// so already, else a copy on device `cpu`, or `serial` where there is no other.
[[nodiscard]] Tensor to_host(const Tensor& tensor);
/// A dense copy on the tensor's device, also if it is of that dtype already.
[[nodiscard]] Tensor to_dtype(const Tensor& tensor, DType dtype);
/// The tensor itself if it is there already, else a copy of a dense host tensor.
[[nodiscard]] Tensor to_device(const Tensor& tensor, Device device);

}  // namespace portolan::ops
