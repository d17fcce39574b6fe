// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "core/ops.hpp"
#include "tests/unit/ops_golden.hpp"

/// Norms with a mean, activations, losses and the optimizer against golden values.
namespace portolan::testing_support {
namespace {

using TrainingGolden = OpsGolden;

TEST_P(TrainingGolden, LayerNorm) {
  const SafetensorsFile file = open("layernorm");
  for (const std::string name :
       {"d64", "d77", "tiny_values", "large_values", "offset", "one_row_d4096", "d1"}) {
    SCOPED_TRACE(name);
    const float epsilon = name == "d77" ? 1e-6F : 1e-5F;
    // Subtracting a mean that is far from 0 costs digits.
    const double tolerance = name == "offset" ? 8.4e-6 : kTolerance;
    const Tensor x = matrix(file, name + ".x");
    const Tensor weight = vector(file, name + ".w");
    const Tensor out = empty_like(x);
    ops::layer_norm(x, weight, vector(file, name + ".b"), epsilon, out);
    expect_near(out, matrix(file, name + ".y"), tolerance);

    const Tensor grad_weight = zeros_like(weight);
    const Tensor grad_bias = zeros_like(weight);
    ops::layer_norm_backward(x, weight, epsilon, matrix(file, name + ".dy"), out, grad_weight,
                             grad_bias);
    expect_near(out, matrix(file, name + ".dx"), tolerance);
    expect_near(grad_weight, matrix(file, name + ".dw"), tolerance);
    expect_near(grad_bias, matrix(file, name + ".db"), tolerance);
  }
}

TEST_P(TrainingGolden, Gelu) {
  for (const auto& [kind, file_name] :
       {std::pair(GeluKind::erf, "gelu_erf"), std::pair(GeluKind::tanh, "gelu_tanh")}) {
    const SafetensorsFile file = open(file_name);
    for (const std::string name : {"normal", "wide", "vector_tail"}) {
      SCOPED_TRACE(std::string(file_name) + " " + name);
      const Tensor x = matrix(file, name + ".x");
      const Tensor out = empty_like(x);
      ops::gelu(x, out, kind);
      expect_near(out, matrix(file, name + ".y"), kTolerance);
      ops::gelu_backward(x, matrix(file, name + ".dy"), out, kind);
      expect_near(out, matrix(file, name + ".dx"), kTolerance);
    }
  }
}

TEST_P(TrainingGolden, Softmax) {
  const SafetensorsFile file = open("softmax");
  for (const std::string name : {"c33", "c1", "c1000_sharp", "masked"}) {
    SCOPED_TRACE(name);
    const Tensor x = matrix(file, name + ".x");
    const Tensor log_sum_exp = empty_like(vector(file, name + ".lse"));
    ops::softmax(x, x, log_sum_exp);
    expect_near(x, matrix(file, name + ".y"), kTolerance);
    expect_near(log_sum_exp, matrix(file, name + ".lse"), kTolerance);
    ops::softmax_backward(x, matrix(file, name + ".dy"), x);
    expect_near(x, matrix(file, name + ".dx"), kTolerance);
  }
}

/// Whole logits, and the same dealt to two holders.
TEST_P(TrainingGolden, CrossEntropy) {
  constexpr std::int32_t kIgnore = -100;
  const SafetensorsFile file = open("cross_entropy");
  for (const std::string name : {"v50", "v1001", "large_logits", "one_scored"}) {
    for (const bool dealt : {false, true}) {
      SCOPED_TRACE(name + (dealt ? ", dealt" : ""));
      const Tensor logits = matrix(file, name + ".logits");
      const std::vector<std::int32_t> labels = indices(file, name + ".labels");
      const auto rows = static_cast<std::int64_t>(labels.size());
      const Tensor label_tensor = index_tensor(labels, device());
      const std::int64_t cut = dealt ? logits.dim(1) / 3 : logits.dim(1);
      std::vector<std::pair<std::int64_t, std::int64_t>> parts = {{0, cut}};
      if (dealt) parts.emplace_back(cut, logits.dim(1));

      Values total(labels.size(), 0.0);
      Values target(labels.size(), 0.0);
      for (const auto& [begin, end] : parts) {
        const auto one = [&] { return Tensor::empty({rows}, DType::f32, device()); };
        const Tensor maximum = one();
        const Tensor sum = one();
        const Tensor own = one();
        ops::cross_entropy_rows(logits.slice(1, begin, end), label_tensor, begin, kIgnore, maximum,
                                sum, own);
        const Values sums = values_of(sum);
        const Values maxima = values_of(maximum);
        const Values targets = values_of(own);
        for (std::size_t row = 0; row < labels.size(); ++row) {
          total[row] += sums[row] * std::exp(maxima[row]);
          target[row] += targets[row];
        }
      }
      const Tensor host_log_sum_exp = Tensor::empty({rows}, DType::f32, kHost);
      const Tensor per_row = Tensor::empty({rows}, DType::f32, kHost);
      ops::fill(per_row, 0.0F);
      int scored = 0;
      for (std::size_t row = 0; row < labels.size(); ++row) {
        host_log_sum_exp.data<float>()[row] = static_cast<float>(std::log(total[row]));
        if (labels[row] == kIgnore) continue;
        per_row.data<float>()[row] = static_cast<float>(std::log(total[row]) - target[row]);
        ++scored;
      }
      expect_near(per_row, matrix(file, name + ".per_row"), kTolerance);
      const Tensor log_sum_exp = ops::to_device(host_log_sum_exp, device());
      for (const auto& [begin, end] : parts) {
        const Tensor part = logits.slice(1, begin, end);
        ops::cross_entropy_backward(part, label_tensor, begin, kIgnore, log_sum_exp,
                                    1.0F / static_cast<float>(scored), part);
      }
      expect_near(logits, matrix(file, name + ".dlogits"), kTolerance);
    }
  }
}

TEST_P(TrainingGolden, AdamW) {
  const SafetensorsFile file = open("adamw");
  for (const std::string name : {"plain", "clip_1.0"}) {
    SCOPED_TRACE(name);
    const bool clips = name != "plain";
    AdamWStep step;
    step.beta1 = 0.9F;
    step.beta2 = 0.95F;
    step.learning_rate = clips ? 0.01F : 0.001F;
    step.weight_decay = clips ? 0.0F : 0.1F;
    struct State {
      std::string prefix;
      Tensor param;
      Tensor first;
      Tensor second;
    };
    std::vector<State> states;
    for (const char* const tensor : {".a.", ".b."}) {
      const std::string prefix = name + tensor;
      const Tensor param = matrix(file, prefix + "p0");
      states.push_back({prefix, param, zeros_like(param), zeros_like(param)});
    }
    for (int t = 1; t <= 3; ++t) {
      const auto gradient = [&](const State& state) {
        return matrix(file, state.prefix + "g" + std::to_string(t - 1));
      };
      double squares = 0.0;
      for (const State& state : states) squares += ops::sum_of_squares(gradient(state));
      // The file holds the gradients after clipping.
      if (clips) {
        EXPECT_LE(std::sqrt(squares), 1.0);
      }
      step.bias_correction1 = static_cast<float>(1.0 - std::pow(0.9, t));
      step.bias_correction2 = static_cast<float>(1.0 - std::pow(0.95, t));
      for (const State& state : states) {
        ops::adamw(state.param, gradient(state), state.first, state.second, step);
        const std::string number = std::to_string(t);
        expect_near(state.param, matrix(file, state.prefix + "p" + number), kTolerance);
        expect_near(state.first, matrix(file, state.prefix + "m" + number), kTolerance);
        expect_near(state.second, matrix(file, state.prefix + "v" + number), kTolerance);
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Devices, TrainingGolden, ::testing::ValuesIn(kDevices), name_of_device);

}  // namespace
}  // namespace portolan::testing_support
