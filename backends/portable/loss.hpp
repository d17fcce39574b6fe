// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstdint>

#include "backends/portable/dispatch.hpp"
#include "backends/portable/rows.hpp"
#include "core/tensor.hpp"

/// Softmax over rows, and cross entropy whose logits are dealt by columns.
namespace portolan::portable {

/// What is subtracted before the exponential. In a row of -infinity alone the differences would be
/// NaN; so shifted by 0 its sum is 0, while that of a row with NaN stays NaN.
KOKKOS_INLINE_FUNCTION float finite_shift(float largest) {
  return largest == -HUGE_VALF ? 0.0F : largest;
}

template <class Space, class T>
struct SoftmaxTeams {
  const T* x = nullptr;
  T* out = nullptr;
  float* log_sum_exp = nullptr;
  std::int64_t x_stride = 0;
  std::int64_t out_stride = 0;
  std::int64_t columns = 0;

  KOKKOS_INLINE_FUNCTION void operator()(const typename RowTeams<Space>::member_type& team) const {
    const auto row = static_cast<std::int64_t>(team.league_rank());
    const T* const values = x + row * x_stride;
    const auto value = [&](std::int64_t c) { return to_float(values[c]); };
    const float largest = row_maximum(team, columns, value);
    const float shift = finite_shift(largest);
    const float total = row_sum<Space>(
        team, columns, [&](std::int64_t c) { return compat::exp(value(c) - shift); });
    T* const to = out + row * out_stride;
    Kokkos::parallel_for(Kokkos::TeamVectorRange(team, columns), [&](const std::int64_t c) {
      to[c] = from_float<T>(total == 0.0F ? 0.0F : compat::exp(value(c) - shift) / total);
    });
    Kokkos::single(Kokkos::PerTeam(team), [&]() { log_sum_exp[row] = shift + compat::log(total); });
  }
};

template <class Space>
void softmax(const Space& space, const Tensor& x, const Tensor& out, const Tensor& log_sum_exp) {
  dispatch_floating(x.dtype(), [&](auto type) {
    using T = typename decltype(type)::type;
    SoftmaxTeams<Space, T> kernel;
    kernel.x = x.data<T>();
    kernel.out = out.data<T>();
    kernel.log_sum_exp = log_sum_exp.data<float>();
    kernel.x_stride = x.strides()[0];
    kernel.out_stride = out.strides()[0];
    kernel.columns = x.dim(1);
    for_row_teams(space, "Portolan::Softmax::forward", x.dim(0), kernel);
  });
}

template <class Space, class T>
struct SoftmaxBackwardTeams {
  const T* out = nullptr;
  const T* grad_out = nullptr;
  T* grad_x = nullptr;
  std::int64_t out_stride = 0;
  std::int64_t grad_out_stride = 0;
  std::int64_t grad_x_stride = 0;
  std::int64_t columns = 0;

  KOKKOS_INLINE_FUNCTION void operator()(const typename RowTeams<Space>::member_type& team) const {
    const auto row = static_cast<std::int64_t>(team.league_rank());
    const T* const values = out + row * out_stride;
    const T* const gradients = grad_out + row * grad_out_stride;
    const float product = row_sum<Space>(team, columns, [&](std::int64_t c) {
      return to_float(values[c]) * to_float(gradients[c]);
    });
    T* const to = grad_x + row * grad_x_stride;
    Kokkos::parallel_for(Kokkos::TeamVectorRange(team, columns), [&](const std::int64_t c) {
      to[c] = from_float<T>(to_float(values[c]) * (to_float(gradients[c]) - product));
    });
  }
};

template <class Space>
void softmax_backward(const Space& space, const Tensor& out, const Tensor& grad_out,
                      const Tensor& grad_x) {
  dispatch_floating(out.dtype(), [&](auto type) {
    using T = typename decltype(type)::type;
    SoftmaxBackwardTeams<Space, T> kernel;
    kernel.out = out.data<T>();
    kernel.grad_out = grad_out.data<T>();
    kernel.grad_x = grad_x.data<T>();
    kernel.out_stride = out.strides()[0];
    kernel.grad_out_stride = grad_out.strides()[0];
    kernel.grad_x_stride = grad_x.strides()[0];
    kernel.columns = out.dim(1);
    for_row_teams(space, "Portolan::Softmax::backward", out.dim(0), kernel);
  });
}

template <class Space, class T>
struct CrossEntropyTeams {
  const T* logits = nullptr;
  const std::int32_t* labels = nullptr;
  float* maximum = nullptr;
  float* sum = nullptr;
  float* target = nullptr;
  std::int64_t stride = 0;
  std::int64_t columns = 0;
  std::int64_t first_column = 0;
  std::int32_t ignore_label = 0;

  KOKKOS_INLINE_FUNCTION void operator()(const typename RowTeams<Space>::member_type& team) const {
    const auto row = static_cast<std::int64_t>(team.league_rank());
    const T* const values = logits + row * stride;
    const auto value = [&](std::int64_t c) { return to_float(values[c]); };
    const float largest = row_maximum(team, columns, value);
    const float shift = finite_shift(largest);
    const float total = row_sum<Space>(
        team, columns, [&](std::int64_t c) { return compat::exp(value(c) - shift); });
    Kokkos::single(Kokkos::PerTeam(team), [&]() {
      const std::int64_t column = labels[row] - first_column;
      const bool here = labels[row] != ignore_label && column >= 0 && column < columns;
      maximum[row] = largest;
      sum[row] = total;
      target[row] = here ? value(column) : 0.0F;
    });
  }
};

template <class Space>
void cross_entropy_rows(const Space& space, const Tensor& logits, const Tensor& labels,
                        std::int64_t first_column, std::int32_t ignore_label, const Tensor& maximum,
                        const Tensor& sum, const Tensor& target) {
  dispatch_floating(logits.dtype(), [&](auto type) {
    using T = typename decltype(type)::type;
    CrossEntropyTeams<Space, T> kernel;
    kernel.logits = logits.data<T>();
    kernel.labels = labels.data<std::int32_t>();
    kernel.maximum = maximum.data<float>();
    kernel.sum = sum.data<float>();
    kernel.target = target.data<float>();
    kernel.stride = logits.strides()[0];
    kernel.columns = logits.dim(1);
    kernel.first_column = first_column;
    kernel.ignore_label = ignore_label;
    for_row_teams(space, "Portolan::CrossEntropy::rows", logits.dim(0), kernel);
  });
}

template <class T>
struct CrossEntropyBackwardRows {
  const T* logits = nullptr;
  const std::int32_t* labels = nullptr;
  const float* log_sum_exp = nullptr;
  T* grad_logits = nullptr;
  std::int64_t stride = 0;
  std::int64_t grad_stride = 0;
  std::int64_t first_column = 0;
  std::int32_t ignore_label = 0;
  float scale = 1.0F;

  KOKKOS_INLINE_FUNCTION void operator()(std::int64_t row, std::int64_t begin,
                                         std::int64_t end) const {
    T* const to = grad_logits + row * grad_stride;
    const std::int64_t label = labels[row] - first_column;
    for (std::int64_t column = begin; column < end; ++column) {
      float value = 0.0F;
      if (labels[row] != ignore_label) {
        const float logit = to_float(logits[row * stride + column]);
        value = compat::exp(logit - log_sum_exp[row]) - (column == label ? 1.0F : 0.0F);
      }
      to[column] = from_float<T>(value * scale);
    }
  }
};

template <class Space>
void cross_entropy_backward(const Space& space, const Tensor& logits, const Tensor& labels,
                            std::int64_t first_column, std::int32_t ignore_label,
                            const Tensor& log_sum_exp, float scale, const Tensor& grad_logits) {
  dispatch_floating(logits.dtype(), [&](auto type) {
    using T = typename decltype(type)::type;
    CrossEntropyBackwardRows<T> kernel;
    kernel.logits = logits.data<T>();
    kernel.labels = labels.data<std::int32_t>();
    kernel.log_sum_exp = log_sum_exp.data<float>();
    kernel.grad_logits = grad_logits.data<T>();
    kernel.stride = logits.strides()[0];
    kernel.grad_stride = grad_logits.strides()[0];
    kernel.first_column = first_column;
    kernel.ignore_label = ignore_label;
    kernel.scale = scale;
    for_rows(space, "Portolan::CrossEntropy::backward", logits.dim(0), logits.dim(1), kernel);
  });
}

}  // namespace portolan::portable
