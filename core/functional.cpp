// SPDX-License-Identifier: Apache-2.0
#include "core/functional.hpp"

#include "core/ops.hpp"

namespace portolan::functional {
namespace {

Tensor like(const Tensor& x) { return Tensor::empty(x.shape(), x.dtype(), x.device()); }

}  // namespace

Tensor rows(const Tensor& x) { return x.view({x.dim(0) * x.dim(1), x.dim(2)}); }

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

Variable gelu(const Variable& x, GeluKind kind, bool recompute) {
  const auto compute = [kind, x = x.value()](const Tensor& out) {
    ops::gelu(rows(x), rows(out), kind);
    return out;
  };
  Tape* tape = x.tape();
  if (tape == nullptr) return compute(x.value());  // in its place
  const Variable result =
      tape->record(compute(like(x.value())), {}, [=](OutputGradients gradients) {
        // Nobody needs x any more: its gradient takes its place.
        const Tensor& saved = x.value();
        ops::gelu_backward(rows(saved), rows(gradients[0].value), rows(saved), kind);
        tape->contribute(x.target(), saved);
      });
  return recompute ? result.recomputed_by([compute, x = x.value()] { return compute(like(x)); })
                   : result;
}

Variable add_embedding(const Variable& x, const ParameterPointer& table, const Tensor& ids) {
  const Tensor added = like(x.value());
  ops::embedding(ids, table->value(), 0, rows(added));
  ops::add(added, x.value());
  Tape* tape = x.tape();
  if (tape == nullptr) return x;
  return tape->record(x.value(), {table}, [=, x = x.target()](OutputGradients gradients) {
    const auto& [gradient, shared] = gradients[0];
    if (table->is_trainable()) {
      ops::embedding_backward(ids, rows(gradient), 0, table->gradient());
    }
    tape->contribute(x, gradient, shared);
  });
}

Variable linear(const Variable& x, const ParameterPointer& weight, const ParameterPointer& bias,
                const Tensor& out) {
  const Weight& matrix = weight->weight();
  if (bias != nullptr) {
    ops::matmul_bias(rows(x.value()), matrix, bias->value(), rows(out));
  } else {
    ops::matmul(rows(x.value()), matrix, rows(out));
  }
  Tape* tape = x.tape();
  if (tape == nullptr) return out;
  // More ranks than features: this one has none of them, and its weight no gradient.
  const bool empty = matrix.in_features() == 0 || matrix.out_features() == 0;
  return tape->record(
      out, {weight, bias}, [=, x = x.target(), saved = x.save()](OutputGradients gradients) {
        const Tensor gradient = rows(gradients[0].value);
        if (bias != nullptr && bias->is_trainable()) {
          ops::add_bias_backward(gradient, bias->gradient());
        }
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
