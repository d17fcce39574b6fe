// SPDX-License-Identifier: Apache-2.0
#include <cmath>

#include "core/ops.hpp"
#include "core/ops_checks.hpp"

/// Gradients, losses and optimizers.
namespace portolan::ops {
namespace {

/// Kernels of losses take labels without a stride.
void require_labels(const Tensor& labels, const Tensor& logits) {
  require_indices(labels, logits, logits.dim(0), "labels");
  require(labels.is_contiguous(), "labels must be dense, found a stride of {}",
          labels.strides()[0]);
}

/// What an optimizer reads and writes: f32, contiguous, of one shape.
void require_state(const Tensor& state, const Tensor& param, const char* name) {
  require_same(param, state, "param", name);
  require(state.dtype() == DType::f32 && state.is_contiguous(),
          "{} must be f32 and contiguous, found {}", name, name_of(state.dtype()));
}

void require_layer_norm(const Tensor& x, const Tensor& weight, const Tensor& bias,
                        const Tensor& out) {
  require_rows(x, "x");
  require_parameters(weight, x, "a norm weight");
  require_parameters(bias, x, "a norm bias");
  require(weight.dtype() == bias.dtype(), "a norm's weight ({}) and bias ({}) must have one dtype",
          name_of(weight.dtype()), name_of(bias.dtype()));
  require_like(out, x, "out", "x");
}

}  // namespace

void dropout(const Tensor& x, float probability, RandomKey key, const MatrixBlock& block) {
  require_rows(x, "x");
  require(probability >= 0.0F && probability < 1.0F,
          "a dropout probability lies in [0, 1), found {}", probability);
  require_block(x, block);
  if (x.elements() == 0 || probability == 0.0F) return;
  backend(x).dropout(x, probability, key, block);
}

void add_bias(const Tensor& x, const Tensor& bias) {
  require_rows(x, "x");
  require_parameters(bias, x, "a bias");
  if (x.elements() == 0) return;
  backend(x).add_bias(x, bias);
}

void add_bias_backward(const Tensor& grad_out, const Tensor& grad_bias) {
  require_rows(grad_out, "grad_out");
  require_f32_vector(grad_bias, grad_out, grad_out.dim(1), "grad_bias");
  if (grad_out.elements() == 0) return;
  backend(grad_out).add_bias_backward(grad_out, grad_bias);
}

void embedding_backward(const Tensor& ids, const Tensor& grad_out, std::int64_t first_row,
                        const Tensor& grad_table) {
  require_rows(grad_out, "grad_out");
  require_rows(grad_table, "grad_table");
  require_indices(ids, grad_out, grad_out.dim(0), "ids");
  require(grad_table.dtype() == DType::f32 && grad_table.dim(1) == grad_out.dim(1),
          "grad_table must be f32 with {} columns, found {} {}", grad_out.dim(1),
          name_of(grad_table.dtype()), grad_table.shape());
  require_device(grad_table.device(), grad_out, "grad_table");
  if (grad_out.elements() == 0 || grad_table.elements() == 0) return;
  backend(grad_out).embedding_backward(ids, grad_out, first_row, grad_table);
}

void rms_norm_backward(const Tensor& x, const Tensor& weight, float epsilon, const Tensor& grad_out,
                       const Tensor& grad_x, const Tensor& grad_weight, bool accumulate_x) {
  require_rows(x, "x");
  require_parameters(weight, x, "a norm weight");
  require_gradient(grad_out, x, "grad_out");
  require_gradient(grad_x, x, "grad_x");
  require_f32_vector(grad_weight, x, x.dim(1), "grad_weight");
  if (x.elements() == 0) return;
  backend(x).rms_norm_backward(x, weight, epsilon, grad_out, grad_x, grad_weight, accumulate_x);
}

void layer_norm(const Tensor& x, const Tensor& weight, const Tensor& bias, float epsilon,
                const Tensor& out) {
  require_layer_norm(x, weight, bias, out);
  if (x.elements() == 0) return;
  backend(x).layer_norm(x, weight, bias, epsilon, out);
}

void add_layer_norm(const Tensor& x, const Tensor& x_bias, const Tensor& residual,
                    const Tensor& weight, const Tensor& bias, float epsilon, const Tensor& out) {
  require_layer_norm(x, weight, bias, out);
  require_like(residual, x, "residual", "x");
  if (x_bias.defined()) {
    require_parameters(x_bias, x, "a bias");
    require(x_bias.dtype() == weight.dtype(), "a bias ({}) must have the dtype of the norm ({})",
            name_of(x_bias.dtype()), name_of(weight.dtype()));
  }
  if (x.elements() == 0) return;
  backend(x).add_layer_norm(x, x_bias, residual, weight, bias, epsilon, out);
}

void layer_norm_backward(const Tensor& x, const Tensor& weight, float epsilon,
                         const Tensor& grad_out, const Tensor& grad_x, const Tensor& grad_weight,
                         const Tensor& grad_bias, bool accumulate_x) {
  require_rows(x, "x");
  require_parameters(weight, x, "a norm weight");
  require_gradient(grad_out, x, "grad_out");
  require_gradient(grad_x, x, "grad_x");
  require_f32_vector(grad_weight, x, x.dim(1), "grad_weight");
  require_f32_vector(grad_bias, x, x.dim(1), "grad_bias");
  if (x.elements() == 0) return;
  backend(x).layer_norm_backward(x, weight, epsilon, grad_out, grad_x, grad_weight, grad_bias,
                                 accumulate_x);
}

void swiglu_backward(const Tensor& gate, const Tensor& up, const Tensor& grad_out,
                     const Tensor& grad_gate, const Tensor& grad_up) {
  require_rows(gate, "gate");
  require_like(up, gate, "up", "gate");
  require_like(grad_out, gate, "grad_out", "gate");
  require_like(grad_gate, gate, "grad_gate", "gate");
  require_like(grad_up, gate, "grad_up", "gate");
  if (gate.elements() == 0) return;
  backend(gate).swiglu_backward(gate, up, grad_out, grad_gate, grad_up);
}

void gelu(const Tensor& x, const Tensor& out, GeluKind kind) {
  require_rows(x, "x");
  require_like(out, x, "out", "x");
  if (x.elements() == 0) return;
  backend(x).gelu(x, out, kind);
}

void gelu_backward(const Tensor& x, const Tensor& grad_out, const Tensor& grad_x, GeluKind kind) {
  require_rows(x, "x");
  require_like(grad_out, x, "grad_out", "x");
  require_like(grad_x, x, "grad_x", "x");
  if (x.elements() == 0) return;
  backend(x).gelu_backward(x, grad_out, grad_x, kind);
}

void softmax(const Tensor& x, const Tensor& out, const Tensor& log_sum_exp) {
  require_rows(x, "x");
  require_like(out, x, "out", "x");
  require_f32_vector(log_sum_exp, x, x.dim(0), "log_sum_exp");
  if (x.elements() == 0) return fill(log_sum_exp, -HUGE_VALF);  // of rows without columns
  backend(x).softmax(x, out, log_sum_exp);
}

void softmax_backward(const Tensor& out, const Tensor& grad_out, const Tensor& grad_x) {
  require_rows(out, "out");
  require_like(grad_out, out, "grad_out", "out");
  require_like(grad_x, out, "grad_x", "out");
  if (out.elements() == 0) return;
  backend(out).softmax_backward(out, grad_out, grad_x);
}

void cross_entropy_rows(const Tensor& logits, const Tensor& labels, std::int64_t first_column,
                        std::int32_t ignore_label, const Tensor& maximum, const Tensor& sum,
                        const Tensor& target) {
  require_rows(logits, "logits");
  require_labels(labels, logits);
  require(logits.dim(1) > 0, "cross entropy needs at least one column of logits");
  require_f32_vector(maximum, logits, logits.dim(0), "maximum");
  require_f32_vector(sum, logits, logits.dim(0), "sum");
  require_f32_vector(target, logits, logits.dim(0), "target");
  if (logits.elements() == 0) return;
  backend(logits).cross_entropy_rows(logits, labels, first_column, ignore_label, maximum, sum,
                                     target);
}

void cross_entropy_backward(const Tensor& logits, const Tensor& labels, std::int64_t first_column,
                            std::int32_t ignore_label, const Tensor& log_sum_exp, float scale,
                            const Tensor& grad_logits) {
  require_rows(logits, "logits");
  require_labels(labels, logits);
  require_f32_vector(log_sum_exp, logits, logits.dim(0), "log_sum_exp");
  require_like(grad_logits, logits, "grad_logits", "logits");
  if (logits.elements() == 0) return;
  backend(logits).cross_entropy_backward(logits, labels, first_column, ignore_label, log_sum_exp,
                                         scale, grad_logits);
}

void adamw(const Tensor& param, const Tensor& grad, const Tensor& first_moment,
           const Tensor& second_moment, const AdamWStep& step, const Tensor& copy) {
  require_defined(param, "param");
  require_state(param, param, "param");
  require_state(grad, param, "grad");
  require_state(first_moment, param, "first_moment");
  require_state(second_moment, param, "second_moment");
  if (copy.defined()) {
    require(copy.shape() == param.shape() && is_floating(copy.dtype()) && copy.is_contiguous() &&
                copy.device() == param.device(),
            "a parameter's copy must be a contiguous floating tensor of shape {}, found {} {}",
            param.shape(), name_of(copy.dtype()), copy.shape());
  }
  if (param.elements() == 0) return;
  backend(param).adamw(param, grad, first_moment, second_moment, step, copy);
}

void sgd(const Tensor& param, const Tensor& grad, const Tensor& momentum_buffer,
         const SgdStep& step) {
  require_defined(param, "param");
  require_state(param, param, "param");
  require_state(grad, param, "grad");
  if (momentum_buffer.defined()) require_state(momentum_buffer, param, "momentum_buffer");
  if (param.elements() == 0) return;
  backend(param).sgd(param, grad, momentum_buffer, step);
}

double sum_of_squares(const Tensor& x) {
  require_floating(x, "x");
  require(x.is_contiguous(), "a sum of squares needs a contiguous tensor");
  return x.elements() == 0 ? 0.0 : backend(x).sum_of_squares(x);
}

}  // namespace portolan::ops
