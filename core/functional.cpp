// SPDX-License-Identifier: Apache-2.0
#include "core/functional.hpp"

#include "core/error.hpp"
#include "core/ops.hpp"

namespace portolan::functional {
namespace {

Tensor like(const Tensor& x) { return Tensor::empty(x.shape(), x.dtype(), x.device()); }

/// Where a norm's gradient of its weight goes: nowhere anybody looks for a frozen one.
Tensor weight_gradient(Parameter& weight) {
  if (weight.is_trainable()) return weight.gradient();
  const Tensor unused = Tensor::empty(weight.value().shape(), DType::f32, weight.value().device());
  ops::fill(unused, 0.0F);
  return unused;
}

SavedTensor::Recipe normed_again(const Tensor& x, const ParameterPointer& weight, float epsilon) {
  return [x, weight, epsilon] {
    const Tensor normed = like(x);
    ops::rms_norm(rows(x), weight->value(), epsilon, rows(normed));
    return normed;
  };
}

}  // namespace

Tensor rows(const Tensor& x) { return x.view({x.dim(0) * x.dim(1), x.dim(2)}); }

Variable rms_norm(const Variable& x, const ParameterPointer& weight, float epsilon,
                  bool recompute) {
  const Tensor normed = like(x.value());
  ops::rms_norm(rows(x.value()), weight->value(), epsilon, rows(normed));
  Tape* tape = x.tape();
  if (tape == nullptr) return normed;
  const Variable result = tape->record(normed, {weight}, [=](OutputGradients gradients) {
    const Tensor grad_x = like(x.value());
    ops::rms_norm_backward(rows(x.value()), weight->value(), epsilon, rows(gradients[0].value),
                           rows(grad_x), weight_gradient(*weight));
    tape->contribute(x.target(), grad_x);
  });
  return recompute ? result.recomputed_by(normed_again(x.value(), weight, epsilon)) : result;
}

NormedSum add_rms_norm(const Variable& x, const Variable& residual, const ParameterPointer& weight,
                       float epsilon, bool recompute) {
  Tape* tape = x.tape() != nullptr ? x.tape() : residual.tape();
  const Tensor& sum = tape == nullptr ? residual.value() : x.value();
  const Tensor& added = tape == nullptr ? x.value() : residual.value();
  const Tensor normed = like(sum);
  ops::add_rms_norm(rows(added), rows(sum), weight->value(), epsilon, rows(normed));
  if (tape == nullptr) return {normed, sum};
  std::vector<Variable> outputs = tape->record(
      {normed, sum}, {weight},
      [=, x = x.target(), residual = residual.target()](OutputGradients gradients) {
        const bool summed = gradients[1].value.defined();
        const Tensor gradient = summed ? gradients[1].exclusive() : like(sum);
        if (gradients[0].value.defined()) {
          ops::rms_norm_backward(rows(sum), weight->value(), epsilon, rows(gradients[0].value),
                                 rows(gradient), weight_gradient(*weight), summed);
        }
        tape->contribute(x, gradient, true);
        tape->contribute(residual, gradient, true);
      });
  if (recompute) outputs[0] = outputs[0].recomputed_by(normed_again(sum, weight, epsilon));
  return {std::move(outputs[0]), std::move(outputs[1])};
}

Variable rotary_embedding(const Variable& x, std::int64_t heads, std::int64_t head_dim,
                          const Tensor& positions, const Tensor& cosines, const Tensor& sines) {
  const auto rotate = [=](const Tensor& tensor, bool inverse) {
    const Tensor part = rows(tensor).slice(1, 0, heads * head_dim).split_last(heads);
    ops::rotary_embedding(part, positions, cosines, sines, inverse);
  };
  rotate(x.value(), false);
  Tape* tape = x.tape();
  if (tape == nullptr) return x;
  return tape->record(x.value(), {}, [=, x = x.target()](OutputGradients gradients) {
    const Tensor gradient = gradients[0].exclusive();
    rotate(gradient, true);
    tape->contribute(x, gradient);
  });
}

Variable swiglu(const Variable& gate_up, bool recompute) {
  const Tensor& x = gate_up.value();
  const std::int64_t features = x.dim(2) / 2;
  const auto part = [features](const Tensor& tensor, std::int64_t index) {
    return rows(tensor).slice(1, index * features, (index + 1) * features);
  };
  const auto compute = [features, part, x] {
    const Tensor out = Tensor::empty({x.dim(0), x.dim(1), features}, x.dtype(), x.device());
    ops::swiglu(part(x, 0), part(x, 1), rows(out));
    return out;
  };
  const Tensor out = compute();
  Tape* tape = gate_up.tape();
  if (tape == nullptr) return out;
  const Variable result = tape->record(out, {}, [=](OutputGradients gradients) {
    // Nobody needs gate and up any more: their gradients take their place.
    const Tensor& saved = gate_up.value();
    ops::swiglu_backward(part(saved, 0), part(saved, 1), rows(gradients[0].value), part(saved, 0),
                         part(saved, 1));
    tape->contribute(gate_up.target(), saved);
  });
  return recompute ? result.recomputed_by(compute) : result;
}

Variable linear(const Variable& x, const ParameterPointer& weight, const Tensor& out) {
  const Weight& matrix = weight->weight();
  const bool empty = matrix.in_features() == 0 || matrix.out_features() == 0;
  if (matrix.in_features() == 0) {
    ops::fill(out, 0.0F);  // more ranks than features: this one adds nothing
  } else if (!empty) {
    ops::matmul(rows(x.value()), matrix, rows(out));
  }
  Tape* tape = x.tape();
  if (tape == nullptr) return out;
  return tape->record(
      out, {weight}, [=, x = x.target(), saved = x.save()](OutputGradients gradients) {
        const Tensor gradient = rows(gradients[0].value);
        const Tensor grad_x = Tensor::empty(x.shape, gradient.dtype(), gradient.device());
        if (empty) {
          ops::fill(grad_x, 0.0F);
        } else {
          if (weight->is_trainable()) {
            const Parameter::Contribution sum = weight->contribution();
            ops::product(gradient, true, rows(saved.get()), false, sum.gradient, sum.accumulate);
          }
          ops::product(gradient, false, weight->value(), false, rows(grad_x));
        }
        tape->contribute(x, grad_x);
      });
}

}  // namespace portolan::functional
