// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <limits>
#include <utility>

#include "core/ops.hpp"
#include "tests/reference/training_reference.hpp"
#include "tests/unit/op_list.hpp"

/// Losses and optimizers.
namespace portolan::testing_support {
namespace {

/// A sum of positive exponentials of differences of up to `range`, each within that many units.
double exponential_roundings(double range) { return 32.0 + 2.0 * range; }

constexpr double kLogitRange = 8.0;

/// Logits with columns of -infinity, as masks leave them, and a whole row of it.
TestMatrix make_logits(const OpSize& size, DType dtype, Device device) {
  Generator generator(seed_of("logits", size));
  const TestMatrix logits =
      random_matrix(generator, size.rows, size.columns, dtype, device, size.strided, kLogitRange);
  if (size.columns > 70) {
    ops::fill(logits.view.slice(1, 3, 40), -std::numeric_limits<float>::infinity());
  }
  if (size.rows > 2) {
    ops::fill(logits.view.slice(0, 1, 2), -std::numeric_limits<float>::infinity());
  }
  return logits;
}

OpInstance make_softmax(const OpSize& size, DType dtype, Device device) {
  const TestMatrix x = make_logits(size, dtype, device);
  const TestMatrix out = constant_matrix(2.0, size.rows, size.columns, dtype, device, size.strided);
  const TestMatrix log_sum_exp = constant_matrix(2.0, 1, size.rows, DType::f32, device, false);
  OpInstance instance;
  instance.results = {out, log_sum_exp};
  instance.run = [=] { ops::softmax(x.view, out.view, vector_of(log_sum_exp)); };
  instance.expected = [=]() -> std::vector<Expectation> {
    const reference::Softmax expected = reference::softmax(x.values(), size.columns);
    const double roundings = exponential_roundings(2.0 * kLogitRange);
    return {
        {expected.out, tolerance_of(expected.out, magnitudes_of(expected.out), roundings, dtype)},
        {expected.log_sum_exp,
         tolerance_of(expected.log_sum_exp, Values(expected.log_sum_exp.size(), kLogitRange),
                      roundings, DType::f32)}};
  };
  instance.bytes = 2.0 * bytes_of(x);
  return instance;
}

OpInstance make_softmax_backward(const OpSize& size, DType dtype, Device device) {
  Generator generator(seed_of("softmax backward", size));
  const TestMatrix out = make_logits(size, dtype, device);
  const TestMatrix log_sum_exp = constant_matrix(0.0, 1, size.rows, DType::f32, device, false);
  ops::softmax(out.view, out.view, vector_of(log_sum_exp));
  const TestMatrix grad_out =
      random_matrix(generator, size.rows, size.columns, dtype, device, size.strided);
  const Values upstream = snapshot(grad_out);
  OpInstance instance;
  instance.results = {grad_out};
  instance.run = [=] { ops::softmax_backward(out.view, grad_out.view, grad_out.view); };
  instance.expected = [=]() -> std::vector<Expectation> {
    const auto expected = reference::softmax_backward(out.values(), upstream, size.columns);
    return {{expected.values, tolerance_of(expected.values, expected.magnitudes, 40.0, dtype)}};
  };
  instance.bytes = 3.0 * bytes_of(out);
  return instance;
}

constexpr std::int64_t kFirstColumn = 7;
constexpr std::int32_t kIgnoreLabel = -100;

/// In the columns held here, before and after them, and ignored.
std::vector<std::int32_t> make_labels(const OpSize& size) {
  Generator generator(seed_of("labels", size));
  std::vector<std::int32_t> labels(static_cast<std::size_t>(size.rows));
  for (std::int32_t& label : labels) {
    label = static_cast<std::int32_t>(generator.word() %
                                      static_cast<std::uint64_t>(size.columns + 2 * kFirstColumn));
    if (generator.word() % 5 == 0) label = kIgnoreLabel;
  }
  labels[0] = kFirstColumn;
  return labels;
}

OpInstance make_cross_entropy_rows(const OpSize& size, DType dtype, Device device) {
  const TestMatrix logits = make_logits(size, dtype, device);
  const std::vector<std::int32_t> labels = make_labels(size);
  const Tensor label_tensor = index_tensor(labels, device);
  const auto vector = [&] { return constant_matrix(NAN, 1, size.rows, DType::f32, device, false); };
  const TestMatrix maximum = vector();
  const TestMatrix sum = vector();
  const TestMatrix target = vector();
  OpInstance instance;
  instance.results = {maximum, sum, target};
  instance.run = [=] {
    ops::cross_entropy_rows(logits.view, label_tensor, kFirstColumn, kIgnoreLabel,
                            vector_of(maximum), vector_of(sum), vector_of(target));
  };
  instance.expected = [=]() -> std::vector<Expectation> {
    const auto expected = reference::cross_entropy_rows(logits.values(), labels, size.columns,
                                                        kFirstColumn, kIgnoreLabel);
    const Values exact(labels.size(), 0.0);
    return {{expected.maximum, exact},
            {expected.sum, tolerance_of(expected.sum, expected.sum,
                                        exponential_roundings(2.0 * kLogitRange), DType::f32)},
            {expected.target, exact}};
  };
  instance.bytes = bytes_of(logits);
  return instance;
}

OpInstance make_cross_entropy_backward(const OpSize& size, bool in_place, DType dtype,
                                       Device device) {
  const TestMatrix logits = make_logits(size, dtype, device);
  const TestMatrix grad =
      in_place ? logits
               : constant_matrix(NAN, size.rows, size.columns, dtype, device, size.strided);
  const std::vector<std::int32_t> labels = make_labels(size);
  const Tensor label_tensor = index_tensor(labels, device);
  // As if other columns held as much again, so that no row is of -infinity alone.
  Generator generator(seed_of("log sum exp", size));
  Values sums = random_matrix(generator, 1, size.rows, DType::f32, device, false, 2.0).values();
  for (double& sum : sums) sum += kLogitRange + std::log(static_cast<double>(size.columns));
  const TestMatrix log_sum_exp = matrix_of(sums, 1, size.rows, DType::f32, device);
  const Values initial = snapshot(logits);
  constexpr float kScale = 0.37F;
  OpInstance instance;
  instance.results = {grad};
  instance.run = [=] {
    ops::cross_entropy_backward(logits.view, label_tensor, kFirstColumn, kIgnoreLabel,
                                vector_of(log_sum_exp), kScale, grad.view);
  };
  instance.expected = [=]() -> std::vector<Expectation> {
    const auto expected = reference::cross_entropy_backward(
        initial, labels, size.columns, kFirstColumn, kIgnoreLabel, log_sum_exp.values(), kScale);
    return {{expected.values, tolerance_of(expected.values, expected.magnitudes,
                                           exponential_roundings(4.0 * kLogitRange), dtype)}};
  };
  instance.bytes = 2.0 * bytes_of(logits);
  return instance;
}

constexpr AdamWStep kAdamW{.learning_rate = 0.01F,
                           .beta1 = 0.9F,
                           .beta2 = 0.95F,
                           .epsilon = 1e-8F,
                           .weight_decay = 0.1F,
                           .bias_correction1 = 0.271F,
                           .bias_correction2 = 0.142625F,
                           .gradient_scale = 0.75F};

/// Of 16 bits: that of the rounded copy.
OpInstance make_adamw(const OpSize& size, DType dtype, Device device) {
  Generator generator(seed_of("adamw", size));
  const auto matrix = [&](double spread) {
    return random_matrix(generator, size.rows, size.columns, DType::f32, device, false, spread);
  };
  const TestMatrix param = matrix(1.0);
  const TestMatrix grad = matrix(0.1);
  const TestMatrix first = matrix(0.1);
  const TestMatrix second =
      matrix_of(magnitudes_of(matrix(0.01).values()), size.rows, size.columns, DType::f32, device);
  const bool copies = dtype != DType::f32;
  const TestMatrix copy = constant_matrix(0.0, size.rows, size.columns, dtype, device, false);
  const reference::OptimizerState initial{snapshot(param), snapshot(first), snapshot(second)};
  OpInstance instance;
  instance.results = {param, first, second};
  if (copies) instance.results.push_back(copy);
  instance.run = [=] {
    ops::adamw(param.view, grad.view, first.view, second.view, kAdamW,
               copies ? copy.view : Tensor());
  };
  instance.expected = [=]() -> std::vector<Expectation> {
    const auto expected = reference::adamw(
        initial, grad.values(),
        {kAdamW.learning_rate, kAdamW.beta1, kAdamW.beta2, kAdamW.epsilon, kAdamW.weight_decay,
         kAdamW.bias_correction1, kAdamW.bias_correction2, kAdamW.gradient_scale});
    // The update is at most learning_rate * (m / c1) / sqrt(v / c2), added to a parameter.
    Values sizes(expected.param.size());
    for (std::size_t i = 0; i < sizes.size(); ++i) {
      sizes[i] = std::abs(initial.param[i]) + std::abs(expected.param[i] - initial.param[i]);
    }
    const Values moments(sizes.size(), 0.1);
    std::vector<Expectation> result = {
        {expected.param, tolerance_of(expected.param, sizes, 12.0, DType::f32)},
        {expected.first_moment, tolerance_of(expected.first_moment, moments, 6.0, DType::f32)},
        {expected.second_moment,
         tolerance_of(expected.second_moment, expected.second_moment, 6.0, DType::f32)}};
    if (copies) {
      result.push_back({expected.param, tolerance_of(expected.param, sizes, 12.0, dtype)});
    }
    return result;
  };
  instance.bytes = 7.0 * bytes_of(param) + (copies ? bytes_of(copy) : 0.0);
  return instance;
}

OpInstance make_sgd(const OpSize& size, bool momentum, DType /*dtype*/, Device device) {
  constexpr SgdStep kStep{
      .learning_rate = 0.1F, .momentum = 0.9F, .weight_decay = 0.01F, .gradient_scale = 0.5F};
  Generator generator(seed_of("sgd", size));
  const auto matrix = [&] {
    return random_matrix(generator, size.rows, size.columns, DType::f32, device, false);
  };
  const TestMatrix param = matrix();
  const TestMatrix grad = matrix();
  const TestMatrix buffer = matrix();
  const reference::OptimizerState initial{
      snapshot(param), momentum ? snapshot(buffer) : Values(), {}};
  OpInstance instance;
  instance.results = {param};
  if (momentum) instance.results.push_back(buffer);
  instance.run = [=] { ops::sgd(param.view, grad.view, momentum ? buffer.view : Tensor(), kStep); };
  instance.expected = [=]() -> std::vector<Expectation> {
    const auto expected = reference::sgd(
        initial, grad.values(),
        {kStep.learning_rate, kStep.momentum, kStep.weight_decay, kStep.gradient_scale});
    const Values sizes(expected.param.size(), 1.5);
    std::vector<Expectation> result = {
        {expected.param, tolerance_of(expected.param, sizes, 6.0, DType::f32)}};
    if (momentum) {
      result.push_back(
          {expected.first_moment, tolerance_of(expected.first_moment, sizes, 6.0, DType::f32)});
    }
    return result;
  };
  instance.bytes = (momentum ? 5.0 : 3.0) * bytes_of(param);
  return instance;
}

/// In f64 the result is right to far below what f32 resolves, whatever the number of elements.
OpInstance make_sum_of_squares(const OpSize& size, DType dtype, Device device) {
  Generator generator(seed_of("squares", size));
  const TestMatrix x = random_matrix(generator, size.rows, size.columns, dtype, device, false);
  const TestMatrix result = constant_matrix(NAN, 1, 1, DType::f32, device, false);
  OpInstance instance;
  instance.results = {result};
  instance.run = [=] { ops::fill(result.whole, static_cast<float>(ops::sum_of_squares(x.view))); };
  instance.expected = [=]() -> std::vector<Expectation> {
    double sum = 0.0;
    for (const double value : x.values()) sum += value * value;
    return {{{sum}, tolerance_of({sum}, {sum}, 1.0, DType::f32)}};
  };
  instance.bytes = bytes_of(x);
  return instance;
}

}  // namespace

std::vector<OpCase> training_cases() {
  std::vector<OpSize> sizes;
  for (const bool strided : {false, true}) {
    for (const OpSize& size : {OpSize{1, 1}, OpSize{1, 77}, OpSize{3, 64}, OpSize{5, 1029},
                               OpSize{67, 250}, OpSize{3, 4100}}) {
      sizes.push_back({size.rows, size.columns, 1, strided});
    }
  }
  const std::vector<OpSize> dense = {{1, 1}, {1, 77}, {5, 1029}, {67, 250}, {9, 4100}};
  const std::vector<OpSize> vocabulary = {{512, 32000}};
  const std::vector<OpSize> parameters = {{4096, 4096}};
  std::vector<OpCase> cases;
  cases.push_back({"softmax", computed_dtypes(), sizes, vocabulary, make_softmax});
  cases.push_back(
      {"softmax_backward", computed_dtypes(), sizes, vocabulary, make_softmax_backward});
  cases.push_back(
      {"cross_entropy_rows", computed_dtypes(), sizes, vocabulary, make_cross_entropy_rows});
  for (const bool in_place : {false, true}) {
    cases.push_back({in_place ? "cross_entropy_backward_in_place" : "cross_entropy_backward",
                     computed_dtypes(), sizes, in_place ? vocabulary : std::vector<OpSize>{},
                     [in_place](const OpSize& size, DType dtype, Device device) {
                       return make_cross_entropy_backward(size, in_place, dtype, device);
                     }});
  }
  cases.push_back({"adamw", computed_dtypes(), dense, parameters, make_adamw});
  for (const bool momentum : {false, true}) {
    cases.push_back({momentum ? "sgd_momentum" : "sgd",
                     {DType::f32},
                     dense,
                     momentum ? parameters : std::vector<OpSize>{},
                     [momentum](const OpSize& size, DType dtype, Device device) {
                       return make_sgd(size, momentum, dtype, device);
                     }});
  }
  cases.push_back({"sum_of_squares", computed_dtypes(), dense, parameters, make_sum_of_squares});
  return cases;
}

}  // namespace portolan::testing_support
