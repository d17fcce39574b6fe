// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "backends/portable/dispatch.hpp"
#include "backends/portable/rows.hpp"
#include "core/tensor.hpp"

namespace portolan::portable {

/// out = norm(x), or, with kAdd, residual += x and out = norm(residual).
template <class Space, class T, class W, bool kAdd>
struct RmsNormTeams {
  const T* x = nullptr;
  T* residual = nullptr;
  const W* weight = nullptr;
  T* out = nullptr;
  std::int64_t x_stride = 0;
  std::int64_t residual_stride = 0;
  std::int64_t out_stride = 0;
  std::int64_t features = 0;
  float epsilon = 0.0F;

  KOKKOS_INLINE_FUNCTION void operator()(const typename RowTeams<Space>::member_type& team) const {
    const auto row = static_cast<std::int64_t>(team.league_rank());
    const T* values = x + row * x_stride;
    if constexpr (kAdd) {
      T* const sum = residual + row * residual_stride;
      const T* const added = values;
      Kokkos::parallel_for(Kokkos::TeamVectorRange(team, features), [&](const std::int64_t c) {
        sum[c] = from_float<T>(to_float(sum[c]) + to_float(added[c]));
      });
      team.team_barrier();
      values = sum;
    }
    const float squares = row_sum<Space>(team, features, [&](std::int64_t column) {
      const float value = to_float(values[column]);
      return value * value;
    });
    const float factor = 1.0F / compat::sqrt(squares / static_cast<float>(features) + epsilon);
    T* const to = out + row * out_stride;
    Kokkos::parallel_for(Kokkos::TeamVectorRange(team, features), [&](const std::int64_t c) {
      to[c] = from_float<T>(to_float(values[c]) * factor * to_float(weight[c]));
    });
  }
};

template <class Space, bool kAdd>
void rms_norm(const Space& space, const char* label, const Tensor& x, const Tensor& residual,
              const Tensor& weight, float epsilon, const Tensor& out) {
  dispatch_with_parameters(x.dtype(), weight.dtype(), [&](auto type, auto weight_type) {
    using T = typename decltype(type)::type;
    using W = typename decltype(weight_type)::type;
    RmsNormTeams<Space, T, W, kAdd> kernel;
    kernel.x = x.data<T>();
    kernel.x_stride = x.strides()[0];
    if constexpr (kAdd) {
      kernel.residual = residual.data<T>();
      kernel.residual_stride = residual.strides()[0];
    }
    kernel.weight = weight.data<W>();
    kernel.out = out.data<T>();
    kernel.out_stride = out.strides()[0];
    kernel.features = x.dim(1);
    kernel.epsilon = epsilon;
    for_row_teams(space, label, x.dim(0), kernel);
  });
}

/// out = norm(x), or, with kAdd, residual += x + x_bias and out = norm(residual).
template <class Space, class T, class W, bool kAdd>
struct LayerNormTeams {
  const T* x = nullptr;
  const W* x_bias = nullptr;  // null: none
  T* residual = nullptr;
  const W* weight = nullptr;
  const W* bias = nullptr;
  T* out = nullptr;
  std::int64_t x_stride = 0;
  std::int64_t residual_stride = 0;
  std::int64_t out_stride = 0;
  std::int64_t features = 0;
  float epsilon = 0.0F;

  KOKKOS_INLINE_FUNCTION void operator()(const typename RowTeams<Space>::member_type& team) const {
    const auto row = static_cast<std::int64_t>(team.league_rank());
    const T* values = x + row * x_stride;
    if constexpr (kAdd) {
      T* const sum = residual + row * residual_stride;
      const T* const added = values;
      Kokkos::parallel_for(Kokkos::TeamVectorRange(team, features), [&](const std::int64_t c) {
        const float shift = x_bias == nullptr ? 0.0F : to_float(x_bias[c]);
        sum[c] = from_float<T>(to_float(sum[c]) + (to_float(added[c]) + shift));
      });
      team.team_barrier();
      values = sum;
    }
    const auto count = static_cast<float>(features);
    const float mean =
        row_sum<Space>(team, features, [&](std::int64_t c) { return to_float(values[c]); }) / count;
    const float squares = row_sum<Space>(team, features, [&](std::int64_t c) {
      const float centred = to_float(values[c]) - mean;
      return centred * centred;
    });
    const float factor = 1.0F / compat::sqrt(squares / count + epsilon);
    T* const to = out + row * out_stride;
    Kokkos::parallel_for(Kokkos::TeamVectorRange(team, features), [&](const std::int64_t c) {
      const float normal = (to_float(values[c]) - mean) * factor;
      to[c] = from_float<T>(normal * to_float(weight[c]) + to_float(bias[c]));
    });
  }
};

template <class Space, bool kAdd>
void layer_norm(const Space& space, const char* label, const Tensor& x, const Tensor& x_bias,
                const Tensor& residual, const Tensor& weight, const Tensor& bias, float epsilon,
                const Tensor& out) {
  dispatch_with_parameters(x.dtype(), weight.dtype(), [&](auto type, auto weight_type) {
    using T = typename decltype(type)::type;
    using W = typename decltype(weight_type)::type;
    LayerNormTeams<Space, T, W, kAdd> kernel;
    kernel.x = x.data<T>();
    if constexpr (kAdd) {
      if (x_bias.defined()) kernel.x_bias = x_bias.data<W>();
      kernel.residual = residual.data<T>();
      kernel.residual_stride = residual.strides()[0];
    }
    kernel.weight = weight.data<W>();
    kernel.bias = bias.data<W>();
    kernel.out = out.data<T>();
    kernel.x_stride = x.strides()[0];
    kernel.out_stride = out.strides()[0];
    kernel.features = x.dim(1);
    kernel.epsilon = epsilon;
    for_row_teams(space, label, x.dim(0), kernel);
  });
}

}  // namespace portolan::portable
