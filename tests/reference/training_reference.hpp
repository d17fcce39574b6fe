// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "tests/reference/ops_reference.hpp"

/// Gradients, losses and optimizers in plain f64, as their defining formulas say. Shares no code
/// with the engine. Matrices are dense and row-major.
namespace portolan::reference {

/// The last dimension has as many columns as `weight` has elements. Gradients with respect to x
/// [rows, features], weight and bias [features], given that with respect to the result.
struct NormGradients {
  Sums x;
  Sums weight;
  Sums bias;
};
[[nodiscard]] NormGradients rms_norm_backward(const Values& x, const Values& weight, double epsilon,
                                              const Values& grad_out);
/// (x - mean) / sqrt(variance + epsilon) * weight + bias.
[[nodiscard]] Sums layer_norm(const Values& x, const Values& weight, const Values& bias,
                              double epsilon);
[[nodiscard]] NormGradients layer_norm_backward(const Values& x, const Values& weight,
                                                double epsilon, const Values& grad_out);

struct SwigluGradients {
  Sums gate;
  Sums up;
};
[[nodiscard]] SwigluGradients swiglu_backward(const Values& gate, const Values& up,
                                              const Values& grad_out);

enum class Gelu { erf, tanh };
[[nodiscard]] Values gelu(const Values& x, Gelu kind);
[[nodiscard]] Sums gelu_backward(const Values& x, const Values& grad_out, Gelu kind);

struct Softmax {
  Values out;          ///< 0 in a row of -infinity alone
  Values log_sum_exp;  ///< one per row
};
[[nodiscard]] Softmax softmax(const Values& x, std::int64_t columns);
[[nodiscard]] Sums softmax_backward(const Values& out, const Values& grad_out,
                                    std::int64_t columns);

/// What a holder of columns [first_column, first_column + columns) knows of each row.
struct CrossEntropyRows {
  Values maximum;
  Values sum;
  Values target;
};
[[nodiscard]] CrossEntropyRows cross_entropy_rows(const Values& logits,
                                                  const std::vector<std::int32_t>& labels,
                                                  std::int64_t columns, std::int64_t first_column,
                                                  std::int32_t ignore_label);
[[nodiscard]] Sums cross_entropy_backward(const Values& logits,
                                          const std::vector<std::int32_t>& labels,
                                          std::int64_t columns, std::int64_t first_column,
                                          std::int32_t ignore_label, const Values& log_sum_exp,
                                          double scale);

/// `table` plus the rows of grad_out, each at row ids[i] - first_row if the table has it.
[[nodiscard]] Sums embedding_backward(const std::vector<std::int32_t>& ids, const Values& grad_out,
                                      std::int64_t first_row, const Values& table,
                                      std::int64_t columns);

/// `initial` [columns] plus the sum of the rows of a matrix.
[[nodiscard]] Sums column_sums(const Values& matrix, const Values& initial);

[[nodiscard]] Values transposed(const Values& matrix, std::int64_t rows, std::int64_t columns);

struct OptimizerState {
  Values param;
  Values first_moment;   ///< of sgd: the momentum buffer
  Values second_moment;  ///< adamw alone
};
struct AdamWSettings {
  double learning_rate;
  double beta1;
  double beta2;
  double epsilon;
  double weight_decay;
  double bias_correction1;
  double bias_correction2;
  double gradient_scale;
};
[[nodiscard]] OptimizerState adamw(const OptimizerState& state, const Values& grad,
                                   const AdamWSettings& settings);
struct SgdSettings {
  double learning_rate;
  double momentum;
  double weight_decay;
  double gradient_scale;
};
[[nodiscard]] OptimizerState sgd(const OptimizerState& state, const Values& grad,
                                 const SgdSettings& settings);

}  // namespace portolan::reference
