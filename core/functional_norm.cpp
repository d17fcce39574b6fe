// SPDX-License-Identifier: Apache-2.0
#include "core/functional.hpp"
#include "core/ops.hpp"

/// Norms, alone and with the sum before them.
namespace portolan::functional {
namespace {

Tensor like(const Tensor& x) { return Tensor::empty(x.shape(), x.dtype(), x.device()); }

/// Where the gradient of a norm's weight or bias goes: nowhere anybody looks for a frozen one.
Tensor parameter_gradient(Parameter& parameter) {
  if (parameter.is_trainable()) return parameter.gradient();
  const Tensor& value = parameter.value();
  const Tensor unused = Tensor::empty(value.shape(), DType::f32, value.device());
  ops::fill(unused, 0.0F);
  return unused;
}

Tensor norm_of(const Tensor& x, const Norm& norm) {
  const Tensor out = like(x);
  if (norm.bias == nullptr) {
    ops::rms_norm(rows(x), norm.weight->value(), norm.epsilon, rows(out));
  } else {
    ops::layer_norm(rows(x), norm.weight->value(), norm.bias->value(), norm.epsilon, rows(out));
  }
  return out;
}

/// residual += x + x_bias, and its norm.
Tensor sum_and_norm(const Tensor& x, const ParameterPointer& x_bias, const Tensor& residual,
                    const Norm& norm) {
  const Tensor out = like(residual);
  if (norm.bias != nullptr) {
    ops::add_layer_norm(rows(x), x_bias == nullptr ? Tensor() : x_bias->value(), rows(residual),
                        norm.weight->value(), norm.bias->value(), norm.epsilon, rows(out));
    return out;
  }
  if (x_bias != nullptr) ops::add_bias(rows(residual), x_bias->value());
  ops::add_rms_norm(rows(x), rows(residual), norm.weight->value(), norm.epsilon, rows(out));
  return out;
}

/// grad_x = the gradient with respect to x, or += it; adds those of the parameters.
void norm_backward(const Tensor& x, const Norm& norm, const Tensor& grad_out, const Tensor& grad_x,
                   bool accumulate) {
  const Tensor grad_weight = parameter_gradient(*norm.weight);
  if (norm.bias == nullptr) {
    ops::rms_norm_backward(rows(x), norm.weight->value(), norm.epsilon, rows(grad_out),
                           rows(grad_x), grad_weight, accumulate);
  } else {
    ops::layer_norm_backward(rows(x), norm.weight->value(), norm.epsilon, rows(grad_out),
                             rows(grad_x), grad_weight, parameter_gradient(*norm.bias), accumulate);
  }
}

}  // namespace

Variable normed(const Variable& x, const Norm& norm, bool recompute) {
  const Tensor out = norm_of(x.value(), norm);
  Tape* tape = x.tape();
  if (tape == nullptr) return out;
  const Variable result =
      tape->record(out, {norm.weight, norm.bias}, [=](OutputGradients gradients) {
        const Tensor grad_x = like(x.value());
        norm_backward(x.value(), norm, gradients[0].value, grad_x, false);
        tape->contribute(x.target(), grad_x);
      });
  if (!recompute) return result;
  return result.recomputed_by([x = x.value(), norm] { return norm_of(x, norm); });
}

NormedSum add_normed(const Variable& x, const ParameterPointer& x_bias, const Variable& residual,
                     const Norm& norm, bool recompute) {
  Tape* tape = x.tape() != nullptr ? x.tape() : residual.tape();
  const Tensor& sum = tape == nullptr ? residual.value() : x.value();
  const Tensor& added = tape == nullptr ? x.value() : residual.value();
  const Tensor out = sum_and_norm(added, x_bias, sum, norm);
  if (tape == nullptr) return {out, sum};
  std::vector<Variable> outputs =
      tape->record({out, sum}, {norm.weight, norm.bias, x_bias},
                   [=, x = x.target(), residual = residual.target()](OutputGradients gradients) {
                     const bool summed = gradients[1].value.defined();
                     const Tensor gradient = summed ? gradients[1].exclusive() : like(sum);
                     if (gradients[0].value.defined()) {
                       norm_backward(sum, norm, gradients[0].value, gradient, summed);
                     }
                     if (x_bias != nullptr && x_bias->is_trainable()) {
                       ops::add_bias_backward(rows(gradient), x_bias->gradient());
                     }
                     tape->contribute(x, gradient, true);
                     tape->contribute(residual, gradient, true);
                   });
  if (recompute) {
    outputs[0] = outputs[0].recomputed_by([sum = sum, norm] { return norm_of(sum, norm); });
  }
  return {std::move(outputs[0]), std::move(outputs[1])};
}

}  // namespace portolan::functional
