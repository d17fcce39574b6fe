// SPDX-License-Identifier: Apache-2.0
#include "tests/reference/training_reference.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <numbers>

namespace portolan::reference {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

Sums zeros(std::size_t count) { return {Values(count), Values(count)}; }

void add_term(Sums& sums, std::size_t index, double term) {
  sums.values[index] += term;
  sums.magnitudes[index] += std::abs(term);
}

double sigmoid(double x) { return 1.0 / (1.0 + std::exp(-x)); }

/// Phi(x) of both forms, and its derivative.
struct Distribution {
  double value;
  double slope;
};

Distribution distribution(double x, Gelu kind) {
  if (kind == Gelu::erf) {
    const double density = std::exp(-x * x / 2.0) / std::sqrt(2.0 * std::numbers::pi);
    return {0.5 * std::erfc(-x / std::numbers::sqrt2), density};
  }
  const double scale = std::sqrt(2.0 / std::numbers::pi);
  const double inner = scale * (x + 0.044715 * x * x * x);
  // (1 + tanh(u)) / 2 = 1 / (1 + exp(-2 u)), which does not cancel.
  const double half = sigmoid(2.0 * inner);
  const double other_half = sigmoid(-2.0 * inner);
  return {half, 2.0 * half * other_half * scale * (1.0 + 3.0 * 0.044715 * x * x)};
}

/// Both norms: `centred` subtracts the mean.
NormGradients norm_backward(const Values& x, const Values& weight, double epsilon,
                            const Values& grad_out, bool centred) {
  const std::size_t features = weight.size();
  const auto count = static_cast<double>(features);
  NormGradients result{zeros(x.size()), zeros(features), zeros(features)};
  for (std::size_t row = 0; row < x.size(); row += features) {
    double mean = 0.0;
    for (std::size_t c = 0; centred && c < features; ++c) mean += x[row + c] / count;
    double variance = 0.0;
    for (std::size_t c = 0; c < features; ++c) {
      variance += (x[row + c] - mean) * (x[row + c] - mean) / count;
    }
    const double root = std::sqrt(variance + epsilon);
    // With y = w n, n = (x - mean) / root: dL/dx_i = sum over c of g_c w_c dn_c/dx_i.
    double along = 0.0;       // sum of g w n
    double total = 0.0;       // sum of g w
    double along_size = 0.0;  // the same of magnitudes
    double total_size = 0.0;
    double centring_error = 0.0;  // subtracting a large mean loses digits
    for (std::size_t c = 0; c < features; ++c) {
      const double normal = (x[row + c] - mean) / root;
      const double through = grad_out[row + c] * weight[c];
      along += through * normal;
      total += through;
      along_size += std::abs(through * normal);
      total_size += std::abs(through);
      centring_error = std::max(centring_error, std::abs(mean) / root);
    }
    for (std::size_t c = 0; c < features; ++c) {
      const double normal = (x[row + c] - mean) / root;
      const double through = grad_out[row + c] * weight[c];
      const double size = std::abs(normal) + centring_error;
      add_term(result.x, row + c, through / root);
      add_term(result.x, row + c, -normal * along / count / root);
      result.x.magnitudes[row + c] += size * (along_size + total_size * size) / count / root;
      if (centred) {
        add_term(result.x, row + c, -total / count / root);
        result.x.magnitudes[row + c] += total_size / count / root;
      }
      result.weight.values[c] += grad_out[row + c] * normal;
      result.weight.magnitudes[c] += std::abs(grad_out[row + c]) * size;
      add_term(result.bias, c, grad_out[row + c]);
    }
  }
  return result;
}

bool is_here(std::int32_t label, std::int64_t first_column, std::int64_t columns,
             std::int32_t ignore_label) {
  return label != ignore_label && label >= first_column && label < first_column + columns;
}

}  // namespace

NormGradients rms_norm_backward(const Values& x, const Values& weight, double epsilon,
                                const Values& grad_out) {
  return norm_backward(x, weight, epsilon, grad_out, false);
}

NormGradients layer_norm_backward(const Values& x, const Values& weight, double epsilon,
                                  const Values& grad_out) {
  return norm_backward(x, weight, epsilon, grad_out, true);
}

Sums layer_norm(const Values& x, const Values& weight, const Values& bias, double epsilon) {
  const std::size_t features = weight.size();
  const auto count = static_cast<double>(features);
  Sums result = zeros(x.size());
  for (std::size_t row = 0; row < x.size(); row += features) {
    double mean = 0.0;
    double variance = 0.0;
    for (std::size_t c = 0; c < features; ++c) mean += x[row + c] / count;
    for (std::size_t c = 0; c < features; ++c) {
      variance += (x[row + c] - mean) * (x[row + c] - mean) / count;
    }
    const double root = std::sqrt(variance + epsilon);
    for (std::size_t c = 0; c < features; ++c) {
      result.values[row + c] = (x[row + c] - mean) / root * weight[c] + bias[c];
      result.magnitudes[row + c] =
          (std::abs(x[row + c]) + std::abs(mean)) / root * std::abs(weight[c]) + std::abs(bias[c]);
    }
  }
  return result;
}

SwigluGradients swiglu_backward(const Values& gate, const Values& up, const Values& grad_out) {
  SwigluGradients result{zeros(gate.size()), zeros(gate.size())};
  for (std::size_t i = 0; i < gate.size(); ++i) {
    const double half = sigmoid(gate[i]);
    const double through = grad_out[i] * up[i];
    add_term(result.gate, i, through * half);
    add_term(result.gate, i, through * gate[i] * half * sigmoid(-gate[i]));
    add_term(result.up, i, grad_out[i] * gate[i] * half);
  }
  return result;
}

Values gelu(const Values& x, Gelu kind) {
  Values result(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) result[i] = x[i] * distribution(x[i], kind).value;
  return result;
}

Sums gelu_backward(const Values& x, const Values& grad_out, Gelu kind) {
  Sums result = zeros(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) {
    const Distribution phi = distribution(x[i], kind);
    add_term(result, i, grad_out[i] * phi.value);
    add_term(result, i, grad_out[i] * x[i] * phi.slope);
  }
  return result;
}

Softmax softmax(const Values& x, std::int64_t columns) {
  Softmax result{Values(x.size()), {}};
  const auto width = static_cast<std::size_t>(columns);
  for (std::size_t row = 0; row < x.size(); row += width) {
    double largest = -kInfinity;
    for (std::size_t c = 0; c < width; ++c) largest = std::max(largest, x[row + c]);
    double total = 0.0;
    for (std::size_t c = 0; c < width && largest > -kInfinity; ++c) {
      result.out[row + c] = std::exp(x[row + c] - largest);
      total += result.out[row + c];
    }
    for (std::size_t c = 0; c < width && total > 0.0; ++c) result.out[row + c] /= total;
    result.log_sum_exp.push_back(total > 0.0 ? largest + std::log(total) : -kInfinity);
  }
  return result;
}

Sums softmax_backward(const Values& out, const Values& grad_out, std::int64_t columns) {
  Sums result = zeros(out.size());
  const auto width = static_cast<std::size_t>(columns);
  for (std::size_t row = 0; row < out.size(); row += width) {
    double product = 0.0;
    double size = 0.0;
    for (std::size_t c = row; c < row + width; ++c) {
      product += out[c] * grad_out[c];
      size += std::abs(out[c] * grad_out[c]);
    }
    for (std::size_t c = row; c < row + width; ++c) {
      result.values[c] = out[c] * (grad_out[c] - product);
      result.magnitudes[c] = out[c] * (std::abs(grad_out[c]) + size);
    }
  }
  return result;
}

CrossEntropyRows cross_entropy_rows(const Values& logits, const std::vector<std::int32_t>& labels,
                                    std::int64_t columns, std::int64_t first_column,
                                    std::int32_t ignore_label) {
  CrossEntropyRows result;
  const auto width = static_cast<std::size_t>(columns);
  for (std::size_t row = 0; row < labels.size(); ++row) {
    const auto begin = logits.begin() + static_cast<std::ptrdiff_t>(row * width);
    const double largest = *std::max_element(begin, begin + columns);
    double total = 0.0;
    for (auto logit = begin; logit != begin + columns && largest > -kInfinity; ++logit) {
      total += std::exp(*logit - largest);
    }
    const bool here = is_here(labels[row], first_column, columns, ignore_label);
    result.maximum.push_back(largest);
    result.sum.push_back(total);
    result.target.push_back(here ? begin[labels[row] - first_column] : 0.0);
  }
  return result;
}

Sums cross_entropy_backward(const Values& logits, const std::vector<std::int32_t>& labels,
                            std::int64_t columns, std::int64_t first_column,
                            std::int32_t ignore_label, const Values& log_sum_exp, double scale) {
  Sums result = zeros(logits.size());
  const auto width = static_cast<std::size_t>(columns);
  for (std::size_t row = 0; row < labels.size(); ++row) {
    if (labels[row] == ignore_label) continue;
    for (std::size_t c = 0; c < width; ++c) {
      add_term(result, row * width + c,
               scale * std::exp(logits[row * width + c] - log_sum_exp[row]));
    }
    if (is_here(labels[row], first_column, columns, ignore_label)) {
      const auto column = static_cast<std::size_t>(labels[row] - first_column);
      add_term(result, row * width + column, -scale);
    }
  }
  return result;
}

Sums embedding_backward(const std::vector<std::int32_t>& ids, const Values& grad_out,
                        std::int64_t first_row, const Values& table, std::int64_t columns) {
  Sums result{table, table};
  for (double& magnitude : result.magnitudes) magnitude = std::abs(magnitude);
  const auto width = static_cast<std::size_t>(columns);
  for (std::size_t i = 0; i < ids.size(); ++i) {
    const std::int64_t row = ids[i] - first_row;
    if (row < 0 || row >= static_cast<std::int64_t>(table.size() / width)) continue;
    for (std::size_t c = 0; c < width; ++c) {
      add_term(result, static_cast<std::size_t>(row) * width + c, grad_out[i * width + c]);
    }
  }
  return result;
}

Sums column_sums(const Values& matrix, const Values& initial) {
  Sums result = zeros(initial.size());
  for (std::size_t c = 0; c < initial.size(); ++c) {
    add_term(result, c, initial[c]);
    for (std::size_t i = c; i < matrix.size(); i += initial.size()) add_term(result, c, matrix[i]);
  }
  return result;
}

Values transposed(const Values& matrix, std::int64_t rows, std::int64_t columns) {
  Values result;
  result.reserve(matrix.size());
  for (std::int64_t column = 0; column < columns; ++column) {
    for (std::int64_t row = 0; row < rows; ++row) {
      result.push_back(matrix[static_cast<std::size_t>(row * columns + column)]);
    }
  }
  return result;
}

OptimizerState adamw(const OptimizerState& state, const Values& grad,
                     const AdamWSettings& settings) {
  OptimizerState result = state;
  for (std::size_t i = 0; i < grad.size(); ++i) {
    const double g = grad[i] * settings.gradient_scale;
    double& p = result.param[i];
    double& m = result.first_moment[i];
    double& v = result.second_moment[i];
    p -= settings.learning_rate * settings.weight_decay * p;
    m = settings.beta1 * m + (1.0 - settings.beta1) * g;
    v = settings.beta2 * v + (1.0 - settings.beta2) * g * g;
    p -= settings.learning_rate * (m / settings.bias_correction1) /
         (std::sqrt(v / settings.bias_correction2) + settings.epsilon);
  }
  return result;
}

OptimizerState sgd(const OptimizerState& state, const Values& grad, const SgdSettings& settings) {
  OptimizerState result = state;
  for (std::size_t i = 0; i < grad.size(); ++i) {
    double g = grad[i] * settings.gradient_scale + settings.weight_decay * state.param[i];
    if (!state.first_moment.empty()) {
      g += settings.momentum * state.first_moment[i];
      result.first_moment[i] = g;
    }
    result.param[i] -= settings.learning_rate * g;
  }
  return result;
}

}  // namespace portolan::reference
