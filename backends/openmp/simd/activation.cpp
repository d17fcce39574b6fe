// SPDX-License-Identifier: Apache-2.0
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backends/openmp/simd/activation.cpp"
#include <hwy/foreach_target.h>  // must come before highway.h
#include <hwy/highway.h>

#include "backends/openmp/simd/training_kernels.hpp"
#include "backends/openmp/simd/vector_math-inl.hpp"
#include "backends/portable/dispatch.hpp"

HWY_BEFORE_NAMESPACE();
namespace portolan::simd::HWY_NAMESPACE {

template <class From, class To>
void add_typed(const AddElements& arguments, std::int64_t count) {
  const auto* const x = static_cast<const From*>(arguments.x);
  auto* const y = static_cast<To*>(arguments.y);
  for_vectors(count, [&](auto at) HWY_ATTR { at.set(hn::Add(at.get(y), at.get(x)), y); });
}

void add(const AddElements& arguments, std::int64_t count) {
  dispatch_floating(arguments.x_dtype, arguments.y_dtype, [&](auto from, auto to) {
    add_typed<typename decltype(from)::type, typename decltype(to)::type>(arguments, count);
  });
}

template <class T>
void scale_typed(const ScaleElements& arguments, std::int64_t count) {
  auto* const x = static_cast<T*>(arguments.x);
  const Floats factor = hn::Set(FloatTag(), arguments.factor);
  for_vectors(count, [&](auto at) HWY_ATTR { at.set(hn::Mul(at.get(x), factor), x); });
}

void scale(const ScaleElements& arguments, std::int64_t count) {
  dispatch_floating(arguments.dtype, [&](auto type) {
    scale_typed<typename decltype(type)::type>(arguments, count);
  });
}

template <class T>
void swiglu_backward_typed(const SwigluBackwardRows& arguments, std::int64_t begin,
                           std::int64_t end) {
  const Floats one = hn::Set(FloatTag(), 1.0F);
  for (std::int64_t row = begin; row < end; ++row) {
    const T* const gate = static_cast<const T*>(arguments.gate) + row * arguments.gate_stride;
    const T* const up = static_cast<const T*>(arguments.up) + row * arguments.up_stride;
    const T* const grad_out =
        static_cast<const T*>(arguments.grad_out) + row * arguments.grad_out_stride;
    T* const grad_gate = static_cast<T*>(arguments.grad_gate) + row * arguments.grad_gate_stride;
    T* const grad_up = static_cast<T*>(arguments.grad_up) + row * arguments.grad_up_stride;
    for_vectors(arguments.features, [&](auto at) HWY_ATTR {
      const Floats x = at.get(gate);
      const Floats factor = at.get(up);
      const Floats gradient = at.get(grad_out);
      const Sigmoid half = sigmoid(x);
      const Floats through = hn::Mul(gradient, half.value);
      at.set(hn::Mul(hn::Mul(through, factor), hn::MulAdd(x, half.complement, one)), grad_gate);
      at.set(hn::Mul(through, x), grad_up);
    });
  }
}

void swiglu_backward(const SwigluBackwardRows& arguments, std::int64_t begin, std::int64_t end) {
  dispatch_floating(arguments.dtype, [&](auto type) {
    swiglu_backward_typed<typename decltype(type)::type>(arguments, begin, end);
  });
}

/// 2 sqrt(2 / pi) and the cubic term: tanh(u) = 2 sigmoid(2 u) - 1 makes Phi a sigmoid.
constexpr float kTanhScale = 1.59576912F;
constexpr float kCubic = 0.044715F;

HWY_INLINE Sigmoid tanh_distribution(Floats x) {
  const FloatTag floats;
  const Floats cubic = hn::Mul(hn::Mul(hn::Mul(x, x), x), hn::Set(floats, kCubic));
  return sigmoid(hn::Mul(hn::Add(x, cubic), hn::Set(floats, kTanhScale)));
}

template <GeluKind kKind>
HWY_INLINE Floats gelu_value(Floats x) {
  if constexpr (kKind == GeluKind::erf) return hn::Mul(x, normal_distribution(x).value);
  return hn::Mul(x, tanh_distribution(x).value);
}

template <GeluKind kKind>
HWY_INLINE Floats gelu_derivative(Floats x) {
  const FloatTag floats;
  if constexpr (kKind == GeluKind::erf) {
    const NormalDistribution phi = normal_distribution(x);
    return hn::MulAdd(x, phi.density, phi.value);
  }
  const Sigmoid phi = tanh_distribution(x);
  // Beyond 1000 the slope of the sigmoid is 0, which times infinity would be NaN.
  const Floats square = hn::Min(hn::Mul(x, x), hn::Set(floats, 1e6F));
  const Floats inner =
      hn::MulAdd(square, hn::Set(floats, 3.0F * kCubic * kTanhScale), hn::Set(floats, kTanhScale));
  return hn::MulAdd(hn::Mul(x, hn::Mul(phi.value, phi.complement)), inner, phi.value);
}

template <class T, GeluKind kKind>
void gelu_typed(const GeluRows& arguments, std::int64_t begin, std::int64_t end) {
  for (std::int64_t row = begin; row < end; ++row) {
    const T* const x = static_cast<const T*>(arguments.x) + row * arguments.x_stride;
    T* const out = static_cast<T*>(arguments.out) + row * arguments.out_stride;
    if (arguments.grad_out == nullptr) {
      for_vectors(arguments.features,
                  [&](auto at) HWY_ATTR { at.set(gelu_value<kKind>(at.get(x)), out); });
      continue;
    }
    const T* const grad_out =
        static_cast<const T*>(arguments.grad_out) + row * arguments.grad_out_stride;
    for_vectors(arguments.features, [&](auto at) HWY_ATTR {
      at.set(hn::Mul(at.get(grad_out), gelu_derivative<kKind>(at.get(x))), out);
    });
  }
}

void gelu(const GeluRows& arguments, std::int64_t begin, std::int64_t end) {
  dispatch_floating(arguments.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    if (arguments.kind == GeluKind::erf) {
      gelu_typed<T, GeluKind::erf>(arguments, begin, end);
    } else {
      gelu_typed<T, GeluKind::tanh>(arguments, begin, end);
    }
  });
}

}  // namespace portolan::simd::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace portolan::simd {

HWY_EXPORT(add);
HWY_EXPORT(scale);
HWY_EXPORT(swiglu_backward);
HWY_EXPORT(gelu);

void add(const AddElements& arguments, std::int64_t count) {
  HWY_DYNAMIC_DISPATCH(add)(arguments, count);
}

void scale(const ScaleElements& arguments, std::int64_t count) {
  HWY_DYNAMIC_DISPATCH(scale)(arguments, count);
}

void swiglu_backward(const SwigluBackwardRows& arguments, std::int64_t begin, std::int64_t end) {
  HWY_DYNAMIC_DISPATCH(swiglu_backward)(arguments, begin, end);
}

void gelu(const GeluRows& arguments, std::int64_t begin, std::int64_t end) {
  HWY_DYNAMIC_DISPATCH(gelu)(arguments, begin, end);
}

}  // namespace portolan::simd
#endif
