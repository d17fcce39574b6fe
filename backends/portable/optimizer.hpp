// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "backends/portable/dispatch.hpp"
#include "backends/portable/rows.hpp"
#include "core/allocator.hpp"
#include "core/backend.hpp"
#include "core/tensor.hpp"

namespace portolan::portable {

/// Copy is the element type of the rounded copy; without one, `copy` is null.
template <class Copy>
struct AdamWElements {
  float* param = nullptr;
  const float* grad = nullptr;
  float* first_moment = nullptr;
  float* second_moment = nullptr;
  Copy* copy = nullptr;
  AdamWStep step;

  KOKKOS_INLINE_FUNCTION void operator()(std::int64_t /*row*/, std::int64_t begin,
                                         std::int64_t end) const {
    const float rate = step.learning_rate / step.bias_correction1;
    const float root_correction = 1.0F / compat::sqrt(step.bias_correction2);
    const float kept = 1.0F - step.learning_rate * step.weight_decay;
    for (std::int64_t i = begin; i < end; ++i) {
      const float gradient = grad[i] * step.gradient_scale;
      const float first = step.beta1 * first_moment[i] + (1.0F - step.beta1) * gradient;
      const float second =
          step.beta2 * second_moment[i] + (1.0F - step.beta2) * (gradient * gradient);
      const float denominator = compat::sqrt(second) * root_correction + step.epsilon;
      const float updated = param[i] * kept - rate * (first / denominator);
      first_moment[i] = first;
      second_moment[i] = second;
      param[i] = updated;
      if (copy != nullptr) copy[i] = from_float<Copy>(updated);
    }
  }
};

template <class Space>
void adamw(const Space& space, const Tensor& param, const Tensor& grad, const Tensor& first_moment,
           const Tensor& second_moment, const AdamWStep& step, const Tensor& copy) {
  dispatch_floating(copy.defined() ? copy.dtype() : DType::f32, [&](auto type) {
    using Copy = typename decltype(type)::type;
    for_rows(space, "Portolan::Optimizer::adamw", 1, param.elements(),
             AdamWElements<Copy>{param.data<float>(), grad.data<float>(),
                                 first_moment.data<float>(), second_moment.data<float>(),
                                 copy.defined() ? copy.data<Copy>() : nullptr, step});
  });
}

struct SgdElements {
  float* param = nullptr;
  const float* grad = nullptr;
  float* momentum_buffer = nullptr;  // may be null
  SgdStep step;

  KOKKOS_INLINE_FUNCTION void operator()(std::int64_t /*row*/, std::int64_t begin,
                                         std::int64_t end) const {
    for (std::int64_t i = begin; i < end; ++i) {
      float direction = grad[i] * step.gradient_scale + step.weight_decay * param[i];
      if (momentum_buffer != nullptr) {
        direction += step.momentum * momentum_buffer[i];
        momentum_buffer[i] = direction;
      }
      param[i] -= step.learning_rate * direction;
    }
  }
};

template <class Space>
void sgd(const Space& space, const Tensor& param, const Tensor& grad, const Tensor& momentum_buffer,
         const SgdStep& step) {
  for_rows(space, "Portolan::Optimizer::sgd", 1, param.elements(),
           SgdElements{param.data<float>(), grad.data<float>(),
                       momentum_buffer.defined() ? momentum_buffer.data<float>() : nullptr, step});
}

/// Elements whose squares are one partial sum.
inline constexpr std::int64_t kSquaresBlock = 16384;

template <class Space, class T>
struct SquaresTeams {
  const T* x = nullptr;
  double* partials = nullptr;
  std::int64_t elements = 0;

  KOKKOS_INLINE_FUNCTION void operator()(const typename RowTeams<Space>::member_type& team) const {
    const auto block = static_cast<std::int64_t>(team.league_rank());
    const T* const values = x + block * kSquaresBlock;
    const std::int64_t rest = elements - block * kSquaresBlock;
    const double sum = row_sum<Space, double>(
        team, rest < kSquaresBlock ? rest : kSquaresBlock, [&](std::int64_t i) {
          const auto value = static_cast<double>(to_float(values[i]));
          return value * value;
        });
    Kokkos::single(Kokkos::PerTeam(team), [&]() { partials[block] = sum; });
  }
};

/// One f64 partial sum for each block of kSquaresBlock elements.
[[nodiscard]] inline std::int64_t squares_blocks(const Tensor& x) {
  return (x.elements() + kSquaresBlock - 1) / kSquaresBlock;
}

template <class Space>
void sum_of_squares(const Space& space, const Tensor& x, double* partials) {
  dispatch_floating(x.dtype(), [&](auto type) {
    using T = typename decltype(type)::type;
    for_row_teams(space, "Portolan::Optimizer::sum_of_squares", squares_blocks(x),
                  SquaresTeams<Space, T>{x.data<T>(), partials, x.elements()});
  });
}

}  // namespace portolan::portable
