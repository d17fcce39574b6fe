// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "backends/portable/dispatch.hpp"
#include "backends/portable/rows.hpp"
#include "core/backend.hpp"
#include "core/tensor.hpp"

/// Activation functions and their gradients. An element's inputs are read before its results are
/// written, so that results may take the place of inputs.
namespace portolan::portable {

template <class T>
struct SwigluRows {
  const T* gate = nullptr;
  const T* up = nullptr;
  T* out = nullptr;
  std::int64_t gate_stride = 0;
  std::int64_t up_stride = 0;
  std::int64_t out_stride = 0;

  KOKKOS_INLINE_FUNCTION void operator()(std::int64_t row, std::int64_t begin,
                                         std::int64_t end) const {
    for (std::int64_t column = begin; column < end; ++column) {
      const float value = to_float(gate[row * gate_stride + column]);
      const float silu = value / (1.0F + compat::exp(-value));
      out[row * out_stride + column] = from_float<T>(silu * to_float(up[row * up_stride + column]));
    }
  }
};

template <class Space>
void swiglu(const Space& space, const Tensor& gate, const Tensor& up, const Tensor& out) {
  dispatch_floating(gate.dtype(), [&](auto type) {
    using T = typename decltype(type)::type;
    for_rows(space, "Portolan::Elementwise::swiglu", gate.dim(0), gate.dim(1),
             SwigluRows<T>{gate.data<T>(), up.data<T>(), out.data<T>(), gate.strides()[0],
                           up.strides()[0], out.strides()[0]});
  });
}

template <class T>
struct SwigluBackwardRows {
  const T* gate = nullptr;
  const T* up = nullptr;
  const T* grad_out = nullptr;
  T* grad_gate = nullptr;
  T* grad_up = nullptr;
  std::int64_t gate_stride = 0;
  std::int64_t up_stride = 0;
  std::int64_t grad_out_stride = 0;
  std::int64_t grad_gate_stride = 0;
  std::int64_t grad_up_stride = 0;

  KOKKOS_INLINE_FUNCTION void operator()(std::int64_t row, std::int64_t begin,
                                         std::int64_t end) const {
    for (std::int64_t column = begin; column < end; ++column) {
      const float x = to_float(gate[row * gate_stride + column]);
      const float factor = to_float(up[row * up_stride + column]);
      const float gradient = to_float(grad_out[row * grad_out_stride + column]);
      const float sigmoid = 1.0F / (1.0F + compat::exp(-x));
      const float complement = 1.0F / (1.0F + compat::exp(x));  // 1 - sigmoid, without cancellation
      grad_gate[row * grad_gate_stride + column] =
          from_float<T>(gradient * factor * sigmoid * (1.0F + x * complement));
      grad_up[row * grad_up_stride + column] = from_float<T>(gradient * x * sigmoid);
    }
  }
};

template <class Space>
void swiglu_backward(const Space& space, const Tensor& gate, const Tensor& up,
                     const Tensor& grad_out, const Tensor& grad_gate, const Tensor& grad_up) {
  dispatch_floating(gate.dtype(), [&](auto type) {
    using T = typename decltype(type)::type;
    for_rows(
        space, "Portolan::Elementwise::swiglu_backward", gate.dim(0), gate.dim(1),
        SwigluBackwardRows<T>{gate.data<T>(), up.data<T>(), grad_out.data<T>(), grad_gate.data<T>(),
                              grad_up.data<T>(), gate.strides()[0], up.strides()[0],
                              grad_out.strides()[0], grad_gate.strides()[0], grad_up.strides()[0]});
  });
}

/// gelu(x) = x Phi(x), and its derivative.
template <GeluKind kKind>
struct Gelu {
  static constexpr float kRootHalf = 0.70710678118654752F;          // 1 / sqrt(2)
  static constexpr float kDensity = 0.39894228040143268F;           // 1 / sqrt(2 pi)
  static constexpr float kTanhScale = 2.0F * 0.79788456080286536F;  // 2 sqrt(2 / pi)
  static constexpr float kCubic = 0.044715F;

  /// Phi(x). tanh(u) = 2 sigmoid(2 u) - 1 makes the approximation a sigmoid; both forms keep their
  /// relative accuracy where x is far below 0.
  KOKKOS_INLINE_FUNCTION static float distribution(float x) {
    if constexpr (kKind == GeluKind::erf) return 0.5F * compat::erfc(-x * kRootHalf);
    return 1.0F / (1.0F + compat::exp(-kTanhScale * (x + kCubic * x * x * x)));
  }

  KOKKOS_INLINE_FUNCTION static float derivative(float x) {
    const float phi = distribution(x);
    if constexpr (kKind == GeluKind::erf) {
      return phi + x * kDensity * compat::exp(-0.5F * x * x);
    }
    // Where the sigmoid is flat its slope is 0, also where x * x overflows.
    const float slope = phi * (1.0F - phi);
    if (slope == 0.0F) return phi;
    return phi + x * slope * kTanhScale * (1.0F + 3.0F * kCubic * x * x);
  }
};

template <class T, GeluKind kKind>
struct GeluRows {
  const T* x = nullptr;
  T* out = nullptr;
  std::int64_t x_stride = 0;
  std::int64_t out_stride = 0;

  KOKKOS_INLINE_FUNCTION void operator()(std::int64_t row, std::int64_t begin,
                                         std::int64_t end) const {
    for (std::int64_t column = begin; column < end; ++column) {
      const float value = to_float(x[row * x_stride + column]);
      out[row * out_stride + column] = from_float<T>(value * Gelu<kKind>::distribution(value));
    }
  }
};

template <class T, GeluKind kKind>
struct GeluBackwardRows {
  const T* x = nullptr;
  const T* grad_out = nullptr;
  T* grad_x = nullptr;
  std::int64_t x_stride = 0;
  std::int64_t grad_out_stride = 0;
  std::int64_t grad_x_stride = 0;

  KOKKOS_INLINE_FUNCTION void operator()(std::int64_t row, std::int64_t begin,
                                         std::int64_t end) const {
    for (std::int64_t column = begin; column < end; ++column) {
      const float gradient = to_float(grad_out[row * grad_out_stride + column]);
      const float value = to_float(x[row * x_stride + column]);
      grad_x[row * grad_x_stride + column] =
          from_float<T>(gradient * Gelu<kKind>::derivative(value));
    }
  }
};

template <class Function>
void dispatch_gelu(GeluKind kind, const Function& function) {
  if (kind == GeluKind::erf) {
    function(std::integral_constant<GeluKind, GeluKind::erf>{});
  } else {
    function(std::integral_constant<GeluKind, GeluKind::tanh>{});
  }
}

template <class Space>
void gelu(const Space& space, const Tensor& x, const Tensor& out, GeluKind kind) {
  dispatch_floating(x.dtype(), [&](auto type) {
    using T = typename decltype(type)::type;
    dispatch_gelu(kind, [&](auto which) {
      for_rows(space, "Portolan::Elementwise::gelu", x.dim(0), x.dim(1),
               GeluRows<T, which()>{x.data<T>(), out.data<T>(), x.strides()[0], out.strides()[0]});
    });
  });
}

template <class Space>
void gelu_backward(const Space& space, const Tensor& x, const Tensor& grad_out,
                   const Tensor& grad_x, GeluKind kind) {
  dispatch_floating(x.dtype(), [&](auto type) {
    using T = typename decltype(type)::type;
    dispatch_gelu(kind, [&](auto which) {
      for_rows(
          space, "Portolan::Elementwise::gelu_backward", x.dim(0), x.dim(1),
          GeluBackwardRows<T, which()>{x.data<T>(), grad_out.data<T>(), grad_x.data<T>(),
                                       x.strides()[0], grad_out.strides()[0], grad_x.strides()[0]});
    });
  });
}

}  // namespace portolan::portable
