// SPDX-License-Identifier: Apache-2.0
#include "training/optimizer.hpp"

#include <cmath>
#include <utility>

#include "core/error.hpp"
#include "core/ops.hpp"

namespace portolan {
namespace {

Tensor zeros_like_master(const Parameter& parameter) {
  const Tensor& master = parameter.master();
  const Tensor zeros = Tensor::empty(master.shape(), DType::f32, master.device());
  ops::fill(zeros, 0.0F);
  return zeros;
}

class AdamW final : public Optimizer {
 public:
  AdamW(const std::vector<ParameterGroup>& groups, const AdamWOptions& options)
      : options_(options) {
    for (const ParameterGroup& group : groups) {
      for (const ParameterPointer& parameter : group.parameters) {
        states_.push_back({parameter, group.weight_decay, zeros_like_master(*parameter),
                           zeros_like_master(*parameter)});
      }
    }
  }

  void step(double learning_rate, double gradient_scale) override {
    ++steps_;
    const auto correction = [this](double beta) {
      return static_cast<float>(1.0 - std::pow(beta, static_cast<double>(steps_)));
    };
    for (const State& state : states_) {
      Parameter& parameter = *state.parameter;
      if (!parameter.has_gradient() || parameter.master().elements() == 0) continue;
      const AdamWStep step{.learning_rate = static_cast<float>(learning_rate),
                           .beta1 = static_cast<float>(options_.beta1),
                           .beta2 = static_cast<float>(options_.beta2),
                           .epsilon = static_cast<float>(options_.epsilon),
                           .weight_decay = static_cast<float>(state.weight_decay),
                           .bias_correction1 = correction(options_.beta1),
                           .bias_correction2 = correction(options_.beta2),
                           .gradient_scale = static_cast<float>(gradient_scale)};
      const bool copies = parameter.value().dtype() != DType::f32;
      ops::adamw(parameter.master(), parameter.gradient(), state.first_moment, state.second_moment,
                 step, copies ? parameter.value() : Tensor());
    }
  }

  [[nodiscard]] std::int64_t state_bytes() const override {
    std::size_t bytes = 0;
    for (const State& state : states_) {
      bytes += state.first_moment.bytes() + state.second_moment.bytes();
    }
    return static_cast<std::int64_t>(bytes);
  }

 private:
  struct State {
    ParameterPointer parameter;
    double weight_decay;
    Tensor first_moment;
    Tensor second_moment;
  };

  AdamWOptions options_;
  std::vector<State> states_;
  std::int64_t steps_ = 0;
};

class Sgd final : public Optimizer {
 public:
  Sgd(const std::vector<ParameterGroup>& groups, double momentum) : momentum_(momentum) {
    for (const ParameterGroup& group : groups) {
      for (const ParameterPointer& parameter : group.parameters) {
        states_.push_back({parameter, group.weight_decay,
                           momentum == 0.0 ? Tensor() : zeros_like_master(*parameter)});
      }
    }
  }

  void step(double learning_rate, double gradient_scale) override {
    for (const State& state : states_) {
      Parameter& parameter = *state.parameter;
      if (!parameter.has_gradient() || parameter.master().elements() == 0) continue;
      ops::sgd(parameter.master(), parameter.gradient(), state.momentum,
               {.learning_rate = static_cast<float>(learning_rate),
                .momentum = static_cast<float>(momentum_),
                .weight_decay = static_cast<float>(state.weight_decay),
                .gradient_scale = static_cast<float>(gradient_scale)});
      parameter.refresh();
    }
  }

  [[nodiscard]] std::int64_t state_bytes() const override {
    std::size_t bytes = 0;
    for (const State& state : states_) {
      if (state.momentum.defined()) bytes += state.momentum.bytes();
    }
    return static_cast<std::int64_t>(bytes);
  }

 private:
  struct State {
    ParameterPointer parameter;
    double weight_decay;
    Tensor momentum;  // undefined without momentum
  };

  double momentum_;
  std::vector<State> states_;
};

}  // namespace

void AdamWOptions::check() const {
  // A moment that keeps everything has a bias correction of 0.
  for (const double beta : {beta1, beta2}) {
    require(beta >= 0.0 && static_cast<float>(beta) < 1.0F,
            "AdamW's betas must be from 0 to less than 1, found {}", beta);
  }
  // Where all gradients have been 0, epsilon is what is divided by.
  require(std::isfinite(epsilon) && static_cast<float>(epsilon) > 0.0F,
          "AdamW's epsilon must be above 0, found {}", epsilon);
}

std::vector<ParameterGroup> decay_groups(const std::vector<ParameterPointer>& parameters,
                                         double weight_decay, bool decay_all) {
  ParameterGroup decayed{{}, weight_decay};
  ParameterGroup others{{}, 0.0};
  for (const ParameterPointer& parameter : parameters) {
    const bool matrix = parameter->master().rank() > 1;
    (matrix || decay_all ? decayed : others).parameters.push_back(parameter);
  }
  return {std::move(decayed), std::move(others)};
}

std::unique_ptr<Optimizer> make_adamw(const std::vector<ParameterGroup>& groups,
                                      const AdamWOptions& options) {
  options.check();
  return std::make_unique<AdamW>(groups, options);
}

std::unique_ptr<Optimizer> make_sgd(const std::vector<ParameterGroup>& groups, double momentum) {
  return std::make_unique<Sgd>(groups, momentum);
}

}  // namespace portolan
