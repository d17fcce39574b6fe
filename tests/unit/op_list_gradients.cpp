// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <utility>

#include "core/ops.hpp"
#include "tests/reference/training_reference.hpp"
#include "tests/unit/op_list.hpp"

namespace portolan::testing_support {
namespace {

constexpr float kEpsilon = 1e-5F;

/// Sums of a row in f32 by partial sums, then a few products; the magnitudes are those of the
/// reference.
constexpr double kRowRoundings = 40.0;

/// Rounding errors of a sum of `terms` terms of random sign, four times what is likely.
double sum_roundings(std::int64_t terms) {
  return 8.0 + 4.0 * std::sqrt(static_cast<double>(terms));
}

Expectation expectation(const reference::Sums& sums, double roundings, DType dtype) {
  return {sums.values, tolerance_of(sums.values, sums.magnitudes, roundings, dtype)};
}

reference::Sums plus(const reference::Sums& sums, const Values& initial) {
  reference::Sums result = sums;
  for (std::size_t i = 0; i < initial.size(); ++i) {
    result.values[i] += initial[i];
    result.magnitudes[i] += std::abs(initial[i]);
  }
  return result;
}

struct NormKind {
  bool layer_norm = false;
  bool accumulate = false;
  bool f32_gradients = false;
  bool in_place = false;  ///< grad_x is grad_out
};

OpInstance make_norm_backward(const OpSize& size, const NormKind& kind, DType dtype,
                              Device device) {
  Generator generator(seed_of("norm backward", size));
  const DType gradient = kind.f32_gradients ? DType::f32 : dtype;
  const auto matrix = [&](DType type, double spread) {
    return random_matrix(generator, size.rows, size.columns, type, device, size.strided, spread);
  };
  const auto vector = [&](DType type) {
    return random_matrix(generator, 1, size.columns, type, device, false, 2.0);
  };
  const TestMatrix x = matrix(dtype, 4.0);
  const TestMatrix weight = vector(dtype);
  const TestMatrix grad_out = matrix(gradient, 1.0);
  const TestMatrix grad_x = kind.in_place ? grad_out : matrix(gradient, 1.0);
  const TestMatrix grad_weight = vector(DType::f32);
  const TestMatrix grad_bias = vector(DType::f32);
  const Values upstream = snapshot(grad_out);
  const Values initial_x = kind.accumulate ? snapshot(grad_x) : Values();
  const Values initial_weight = snapshot(grad_weight);
  const Values initial_bias = snapshot(grad_bias);
  OpInstance instance;
  instance.results = {grad_x, grad_weight};
  if (kind.layer_norm) instance.results.push_back(grad_bias);
  instance.run = [=] {
    if (kind.layer_norm) {
      ops::layer_norm_backward(x.view, vector_of(weight), kEpsilon, grad_out.view, grad_x.view,
                               vector_of(grad_weight), vector_of(grad_bias), kind.accumulate);
    } else {
      ops::rms_norm_backward(x.view, vector_of(weight), kEpsilon, grad_out.view, grad_x.view,
                             vector_of(grad_weight), kind.accumulate);
    }
  };
  instance.expected = [=]() -> std::vector<Expectation> {
    const auto backward =
        kind.layer_norm ? reference::layer_norm_backward : reference::rms_norm_backward;
    const reference::NormGradients expected =
        backward(x.values(), weight.values(), kEpsilon, upstream);
    const double roundings = kRowRoundings + sum_roundings(size.rows);
    std::vector<Expectation> result = {
        expectation(plus(expected.x, initial_x), kRowRoundings, gradient),
        expectation(plus(expected.weight, initial_weight), roundings, DType::f32)};
    if (kind.layer_norm) {
      result.push_back(expectation(plus(expected.bias, initial_bias), roundings, DType::f32));
    }
    return result;
  };
  instance.bytes = bytes_of(x) + bytes_of(grad_out) + bytes_of(grad_x) * (kind.accumulate ? 2 : 1);
  return instance;
}

/// `row` again and again.
Values repeated_rows(const Values& row, std::size_t elements) {
  Values repeated(elements);
  for (std::size_t i = 0; i < elements; ++i) repeated[i] = row[i % row.size()];
  return repeated;
}

OpInstance make_layer_norm(const OpSize& size, DType parameters, DType dtype, Device device) {
  Generator generator(seed_of("layer norm", size));
  const TestMatrix x =
      random_matrix(generator, size.rows, size.columns, dtype, device, size.strided, 4.0);
  const TestMatrix weight = random_matrix(generator, 1, size.columns, parameters, device, false);
  const TestMatrix bias = random_matrix(generator, 1, size.columns, parameters, device, false);
  const TestMatrix out = constant_matrix(0.0, size.rows, size.columns, dtype, device, size.strided);
  OpInstance instance;
  instance.results = {out};
  instance.run = [=] {
    ops::layer_norm(x.view, vector_of(weight), vector_of(bias), kEpsilon, out.view);
  };
  instance.expected = [=]() -> std::vector<Expectation> {
    const auto expected =
        reference::layer_norm(x.values(), weight.values(), bias.values(), kEpsilon);
    return {expectation(expected, kRowRoundings, dtype)};
  };
  instance.bytes = 2.0 * bytes_of(out);
  return instance;
}

/// residual += x + x_bias, and its norm. Parameters of the dtype `parameters`.
OpInstance make_add_layer_norm(const OpSize& size, bool with_bias, DType parameters, DType dtype,
                               Device device) {
  Generator generator(seed_of("add layer norm", size));
  const TestMatrix x =
      random_matrix(generator, size.rows, size.columns, dtype, device, size.strided, 4.0);
  const TestMatrix residual =
      random_matrix(generator, size.rows, size.columns, dtype, device, size.strided, 4.0);
  const TestMatrix x_bias = random_matrix(generator, 1, size.columns, parameters, device, false);
  const TestMatrix weight = random_matrix(generator, 1, size.columns, parameters, device, false);
  const TestMatrix bias = random_matrix(generator, 1, size.columns, parameters, device, false);
  const TestMatrix out = constant_matrix(0.0, size.rows, size.columns, dtype, device, size.strided);
  const Values initial = snapshot(residual);
  OpInstance instance;
  instance.results = {residual, out};
  instance.run = [=] {
    ops::add_layer_norm(x.view, with_bias ? vector_of(x_bias) : Tensor(), residual.view,
                        vector_of(weight), vector_of(bias), kEpsilon, out.view);
  };
  instance.expected = [=]() -> std::vector<Expectation> {
    std::vector<Values> terms{initial, x.values()};
    if (with_bias) terms.push_back(repeated_rows(x_bias.values(), initial.size()));
    // The norm is that of the residual as it was rounded and stored.
    const auto expected =
        reference::layer_norm(residual.values(), weight.values(), bias.values(), kEpsilon);
    return {expectation(reference::sum(terms), 2.0, dtype),
            expectation(expected, kRowRoundings, dtype)};
  };
  instance.bytes = 4.0 * bytes_of(out);
  return instance;
}

OpInstance make_embedding_backward(const OpSize& size, DType dtype, Device device) {
  Generator generator(seed_of("embedding backward", size));
  constexpr std::int64_t kTableRows = 50;
  constexpr std::int64_t kFirstRow = 20;
  const TestMatrix table =
      random_matrix(generator, kTableRows, size.columns, DType::f32, device, size.strided);
  const TestMatrix grad_out =
      random_matrix(generator, size.rows, size.columns, dtype, device, size.strided);
  std::vector<std::int32_t> ids(static_cast<std::size_t>(size.rows));
  // Many repeat, and some lie before and some after the rows that the table holds.
  for (std::int32_t& id : ids) id = static_cast<std::int32_t>(generator.word() % 90);
  ids[0] = kFirstRow;
  const Tensor id_tensor = index_tensor(ids, device);
  const Values initial = snapshot(table);
  OpInstance instance;
  instance.results = {table};
  instance.run = [=] { ops::embedding_backward(id_tensor, grad_out.view, kFirstRow, table.view); };
  instance.expected = [=]() -> std::vector<Expectation> {
    const auto expected =
        reference::embedding_backward(ids, grad_out.values(), kFirstRow, initial, size.columns);
    return {expectation(expected, sum_roundings(size.rows), DType::f32)};
  };
  // The table's rows are in the cache or not as ids repeat: what surely moves is grad_out.
  instance.bytes = bytes_of(grad_out);
  return instance;
}

OpInstance make_swiglu_backward(const OpSize& size, bool in_place, DType dtype, Device device) {
  Generator generator(seed_of("swiglu backward", size));
  const auto matrix = [&](double spread) {
    return random_matrix(generator, size.rows, size.columns, dtype, device, size.strided, spread);
  };
  const TestMatrix gate = matrix(30.0);
  const TestMatrix up = matrix(2.0);
  const TestMatrix grad_out = matrix(1.0);
  const TestMatrix grad_gate = in_place ? gate : matrix(1.0);
  const TestMatrix grad_up = in_place ? up : matrix(1.0);
  const Values gate_values = snapshot(gate);
  const Values up_values = snapshot(up);
  OpInstance instance;
  instance.results = {grad_gate, grad_up};
  instance.run = [=] {
    ops::swiglu_backward(gate.view, up.view, grad_out.view, grad_gate.view, grad_up.view);
  };
  instance.expected = [=]() -> std::vector<Expectation> {
    const auto expected = reference::swiglu_backward(gate_values, up_values, grad_out.values());
    // Two exponentials within 4 roundings each, divisions, and at most five products and sums.
    return {expectation(expected.gate, 16.0, dtype), expectation(expected.up, 8.0, dtype)};
  };
  instance.bytes = 5.0 * bytes_of(gate);
  return instance;
}

reference::Gelu reference_kind(GeluKind kind) {
  return kind == GeluKind::erf ? reference::Gelu::erf : reference::Gelu::tanh;
}

/// Of the function itself with `backward` false.
OpInstance make_gelu(const OpSize& size, GeluKind kind, bool backward, DType dtype, Device device) {
  Generator generator(seed_of("gelu", size));
  const TestMatrix x =
      random_matrix(generator, size.rows, size.columns, dtype, device, size.strided, 6.0);
  const TestMatrix grad_out =
      random_matrix(generator, size.rows, size.columns, dtype, device, size.strided);
  const TestMatrix out = constant_matrix(0.0, size.rows, size.columns, dtype, device, size.strided);
  OpInstance instance;
  instance.results = {out};
  instance.run = [=] {
    if (backward) {
      ops::gelu_backward(x.view, grad_out.view, out.view, kind);
    } else {
      ops::gelu(x.view, out.view, kind);
    }
  };
  instance.expected = [=]() -> std::vector<Expectation> {
    const Values inputs = x.values();
    reference::Sums expected;
    if (backward) {
      expected = reference::gelu_backward(inputs, grad_out.values(), reference_kind(kind));
    } else {
      expected.values = reference::gelu(inputs, reference_kind(kind));
      expected.magnitudes = magnitudes_of(expected.values);
    }
    // In the tails the result is an exponential of up to -x^2: rounding its argument costs as many
    // units as it is large, 18 for the 6 here and twice that for the cubic of the tanh form.
    return {expectation(expected, 100.0, dtype)};
  };
  instance.bytes = bytes_of(x) * (backward ? 3.0 : 2.0);
  return instance;
}

OpInstance make_add_bias(const OpSize& size, DType bias_dtype, DType dtype, Device device) {
  Generator generator(seed_of("bias", size));
  const TestMatrix x =
      random_matrix(generator, size.rows, size.columns, dtype, device, size.strided);
  const TestMatrix bias = random_matrix(generator, 1, size.columns, bias_dtype, device, false);
  const Values initial = snapshot(x);
  OpInstance instance;
  instance.results = {x};
  instance.run = [=] { ops::add_bias(x.view, vector_of(bias)); };
  instance.expected = [=]() -> std::vector<Expectation> {
    return {expectation(reference::sum({initial, repeated_rows(bias.values(), initial.size())}),
                        1.0, dtype)};
  };
  instance.bytes = 2.0 * bytes_of(x);
  return instance;
}

OpInstance make_add_bias_backward(const OpSize& size, DType dtype, Device device) {
  Generator generator(seed_of("bias backward", size));
  const TestMatrix grad_out =
      random_matrix(generator, size.rows, size.columns, dtype, device, size.strided);
  const TestMatrix grad_bias = random_matrix(generator, 1, size.columns, DType::f32, device, false);
  const Values initial = snapshot(grad_bias);
  OpInstance instance;
  instance.results = {grad_bias};
  instance.run = [=] { ops::add_bias_backward(grad_out.view, vector_of(grad_bias)); };
  instance.expected = [=]() -> std::vector<Expectation> {
    return {expectation(reference::column_sums(grad_out.values(), initial),
                        sum_roundings(size.rows), DType::f32)};
  };
  instance.bytes = bytes_of(grad_out);
  return instance;
}

}  // namespace

std::vector<OpCase> gradient_cases() {
  const std::vector<OpSize> large = {{1024, 4096}};
  std::vector<OpSize> sizes;
  for (const bool strided : {false, true}) {
    for (const OpSize& size : {OpSize{1, 1}, OpSize{1, 77}, OpSize{3, 64}, OpSize{5, 1029},
                               OpSize{133, 250}, OpSize{2, 4096}}) {
      sizes.push_back({size.rows, size.columns, 1, strided});
    }
  }
  std::vector<OpCase> cases;
  const auto add_norm = [&](const std::string& name, const NormKind& kind, bool timed) {
    cases.push_back({name, computed_dtypes(), sizes, timed ? large : std::vector<OpSize>{},
                     [kind](const OpSize& size, DType dtype, Device device) {
                       return make_norm_backward(size, kind, dtype, device);
                     }});
  };
  for (const bool layer_norm : {false, true}) {
    const std::string name = layer_norm ? "layer_norm_backward" : "rms_norm_backward";
    add_norm(name, {.layer_norm = layer_norm}, true);
    add_norm(name + "_accumulate", {.layer_norm = layer_norm, .accumulate = true}, true);
    add_norm(name + "_f32_gradients",
             {.layer_norm = layer_norm, .accumulate = true, .f32_gradients = true}, false);
    add_norm(name + "_in_place", {.layer_norm = layer_norm, .in_place = true}, false);
  }
  cases.push_back({"layer_norm", computed_dtypes(), sizes, large,
                   [](const OpSize& size, DType dtype, Device device) {
                     return make_layer_norm(size, dtype, dtype, device);
                   }});
  cases.push_back({"layer_norm_f32_parameters",
                   {DType::bf16, DType::f16},
                   sizes,
                   {},
                   [](const OpSize& size, DType dtype, Device device) {
                     return make_layer_norm(size, DType::f32, dtype, device);
                   }});
  for (const bool with_bias : {false, true}) {
    cases.push_back({with_bias ? "add_bias_layer_norm" : "add_layer_norm", computed_dtypes(), sizes,
                     large, [with_bias](const OpSize& size, DType dtype, Device device) {
                       return make_add_layer_norm(size, with_bias, dtype, dtype, device);
                     }});
  }
  cases.push_back({"add_bias_layer_norm_f32_parameters",
                   {DType::bf16, DType::f16},
                   sizes,
                   {},
                   [](const OpSize& size, DType dtype, Device device) {
                     return make_add_layer_norm(size, true, DType::f32, dtype, device);
                   }});
  cases.push_back({"embedding_backward", computed_dtypes(), sizes, large, make_embedding_backward});
  for (const bool in_place : {false, true}) {
    cases.push_back({in_place ? "swiglu_backward_in_place" : "swiglu_backward", computed_dtypes(),
                     sizes, in_place ? std::vector<OpSize>{} : std::vector<OpSize>{{1024, 11008}},
                     [in_place](const OpSize& size, DType dtype, Device device) {
                       return make_swiglu_backward(size, in_place, dtype, device);
                     }});
  }
  for (const GeluKind kind : {GeluKind::erf, GeluKind::tanh}) {
    for (const bool backward : {false, true}) {
      cases.push_back({std::string(kind == GeluKind::erf ? "gelu_erf" : "gelu_tanh") +
                           (backward ? "_backward" : ""),
                       computed_dtypes(), sizes, large,
                       [kind, backward](const OpSize& size, DType dtype, Device device) {
                         return make_gelu(size, kind, backward, dtype, device);
                       }});
    }
  }
  cases.push_back({"add_bias", computed_dtypes(), sizes, large,
                   [](const OpSize& size, DType dtype, Device device) {
                     return make_add_bias(size, dtype, dtype, device);
                   }});
  cases.push_back({"add_bias_f32",
                   {DType::bf16, DType::f16},
                   sizes,
                   {},
                   [](const OpSize& size, DType dtype, Device device) {
                     return make_add_bias(size, DType::f32, dtype, device);
                   }});
  cases.push_back({"add_bias_backward", computed_dtypes(), sizes, large, make_add_bias_backward});
  return cases;
}

}  // namespace portolan::testing_support
