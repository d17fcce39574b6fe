// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "backends/portable/columns.hpp"
#include "backends/portable/dispatch.hpp"
#include "backends/portable/rows.hpp"
#include "core/allocator.hpp"
#include "core/tensor.hpp"

/// Gradients of root-mean-square and layer norms, which differ in the mean alone. With
/// n = (x - mean) * inverse and h = grad_out * weight, all over one row:
///   grad_x = inverse * (h - [mean of h] - n * mean of (h n)),   grad_weight += grad_out * n.
namespace portolan::portable {

/// What the gradient needs to know of a row: grad_x = inverse * h - shift - slope * (x - mean).
struct NormRow {
  float mean = 0.0F;
  float inverse = 0.0F;
  float shift = 0.0F;
  float slope = 0.0F;
};

/// kCentred: layer norm.
template <class Space, bool kCentred, class T, class W, class G>
struct NormRowTeams {
  const T* x = nullptr;
  const W* weight = nullptr;
  const G* grad_out = nullptr;
  NormRow* rows = nullptr;
  std::int64_t x_stride = 0;
  std::int64_t grad_out_stride = 0;
  std::int64_t features = 0;
  float epsilon = 0.0F;

  KOKKOS_INLINE_FUNCTION void operator()(const typename RowTeams<Space>::member_type& team) const {
    const auto index = static_cast<std::int64_t>(team.league_rank());
    const T* const values = x + index * x_stride;
    const G* const gradients = grad_out + index * grad_out_stride;
    const auto count = static_cast<float>(features);
    NormRow row;
    if constexpr (kCentred) {
      row.mean =
          row_sum<Space>(team, features, [&](std::int64_t c) { return to_float(values[c]); }) /
          count;
    }
    const float mean = row.mean;
    const float squares = row_sum<Space>(team, features, [&](std::int64_t c) {
      const float centred = to_float(values[c]) - mean;
      return centred * centred;
    });
    row.inverse = 1.0F / compat::sqrt(squares / count + epsilon);
    const float inverse = row.inverse;
    const float product = row_sum<Space>(team, features, [&](std::int64_t c) {
      const float normal = (to_float(values[c]) - mean) * inverse;
      return to_float(gradients[c]) * to_float(weight[c]) * normal;
    });
    row.slope = product / count * inverse * inverse;
    if constexpr (kCentred) {
      row.shift = row_sum<Space>(team, features,
                                 [&](std::int64_t c) {
                                   return to_float(gradients[c]) * to_float(weight[c]);
                                 }) /
                  count * inverse;
    }
    Kokkos::single(Kokkos::PerTeam(team), [&]() { rows[index] = row; });
  }
};

/// grad_out * n, whose column sums are the gradient of the weight.
template <class T, class G>
struct NormWeightTerm {
  const T* x = nullptr;
  const G* grad_out = nullptr;
  const NormRow* rows = nullptr;
  std::int64_t x_stride = 0;
  std::int64_t grad_out_stride = 0;

  KOKKOS_INLINE_FUNCTION float operator()(std::int64_t row, std::int64_t column) const {
    const float normal =
        (to_float(x[row * x_stride + column]) - rows[row].mean) * rows[row].inverse;
    return to_float(grad_out[row * grad_out_stride + column]) * normal;
  }
};

template <class T, class W, class G, class R>
struct NormBackwardRows {
  const T* x = nullptr;
  const W* weight = nullptr;
  const G* grad_out = nullptr;
  R* grad_x = nullptr;
  const NormRow* rows = nullptr;
  std::int64_t x_stride = 0;
  std::int64_t grad_out_stride = 0;
  std::int64_t grad_x_stride = 0;
  bool accumulate = false;

  KOKKOS_INLINE_FUNCTION void operator()(std::int64_t index, std::int64_t begin,
                                         std::int64_t end) const {
    const NormRow row = rows[index];
    for (std::int64_t column = begin; column < end; ++column) {
      const float h =
          to_float(grad_out[index * grad_out_stride + column]) * to_float(weight[column]);
      const float centred = to_float(x[index * x_stride + column]) - row.mean;
      float value = row.inverse * h - row.shift - row.slope * centred;
      R& to = grad_x[index * grad_x_stride + column];
      if (accumulate) value += to_float(to);
      to = from_float<R>(value);
    }
  }
};

/// Of rms_norm without a grad_bias, of layer_norm with one.
struct NormGradients {
  const Tensor& grad_out;
  const Tensor& grad_x;
  const Tensor& grad_weight;
  const Tensor* grad_bias = nullptr;
  bool accumulate_x = false;
};

template <class Space, bool kCentred, class T, class W, class G>
void norm_backward_typed(const Space& space, CachingAllocator& allocator, const char* label,
                         const Tensor& x, const Tensor& weight, float epsilon,
                         const NormGradients& gradients) {
  const Tensor& grad_out = gradients.grad_out;
  const BlockReference scratch =
      allocator.allocate(static_cast<std::size_t>(x.dim(0)) * sizeof(NormRow));
  auto* const rows = reinterpret_cast<NormRow*>(scratch.get()->data());
  NormRowTeams<Space, kCentred, T, W, G> statistics;
  statistics.x = x.data<T>();
  statistics.weight = weight.data<W>();
  statistics.grad_out = grad_out.data<G>();
  statistics.rows = rows;
  statistics.x_stride = x.strides()[0];
  statistics.grad_out_stride = grad_out.strides()[0];
  statistics.features = x.dim(1);
  statistics.epsilon = epsilon;
  for_row_teams(space, label, x.dim(0), statistics);

  // Before grad_x is written, which may be x or grad_out.
  add_column_sums(space, allocator, label, x.dim(0), x.dim(1),
                  NormWeightTerm<T, G>{x.data<T>(), grad_out.data<G>(), rows, x.strides()[0],
                                       grad_out.strides()[0]},
                  gradients.grad_weight.data<float>());
  if constexpr (kCentred) {
    add_column_sums(space, allocator, label, x.dim(0), x.dim(1),
                    MatrixTerm<G>{grad_out.data<G>(), grad_out.strides()[0]},
                    gradients.grad_bias->data<float>());
  }

  dispatch_with_parameters(x.dtype(), gradients.grad_x.dtype(), [&](auto type, auto result) {
    using R = typename decltype(result)::type;
    if constexpr (std::is_same_v<typename decltype(type)::type, T>) {
      for_rows(space, label, x.dim(0), x.dim(1),
               NormBackwardRows<T, W, G, R>{x.data<T>(), weight.data<W>(), grad_out.data<G>(),
                                            gradients.grad_x.data<R>(), rows, x.strides()[0],
                                            grad_out.strides()[0], gradients.grad_x.strides()[0],
                                            gradients.accumulate_x});
    }
  });
}

template <class Space, bool kCentred>
void norm_backward(const Space& space, CachingAllocator& allocator, const char* label,
                   const Tensor& x, const Tensor& weight, float epsilon,
                   const NormGradients& gradients) {
  dispatch_with_parameters(x.dtype(), weight.dtype(), [&](auto type, auto weight_type) {
    using T = typename decltype(type)::type;
    using W = typename decltype(weight_type)::type;
    if (gradients.grad_out.dtype() == x.dtype()) {
      norm_backward_typed<Space, kCentred, T, W, T>(space, allocator, label, x, weight, epsilon,
                                                    gradients);
    } else {
      norm_backward_typed<Space, kCentred, T, W, float>(space, allocator, label, x, weight, epsilon,
                                                        gradients);
    }
  });
}

}  // namespace portolan::portable
