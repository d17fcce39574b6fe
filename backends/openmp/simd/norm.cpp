// SPDX-License-Identifier: Apache-2.0
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backends/openmp/simd/norm.cpp"
#include <hwy/foreach_target.h>  // must come before highway.h
#include <hwy/highway.h>

#include <cmath>

#include "backends/openmp/simd/training_kernels.hpp"
#include "backends/openmp/simd/vector_math-inl.hpp"
#include "backends/portable/dispatch.hpp"

HWY_BEFORE_NAMESPACE();
namespace portolan::simd::HWY_NAMESPACE {

template <class T>
HWY_INLINE float mean_of(const T* x, std::int64_t features) {
  const auto [sum] = sums_over<1>(
      features, [&](auto at, Floats(&sums)[1]) HWY_ATTR { sums[0] = hn::Add(sums[0], at.get(x)); });
  return sum / static_cast<float>(features);
}

template <class T>
HWY_INLINE float variance_of(const T* x, float mean, std::int64_t features) {
  const Floats means = hn::Set(FloatTag(), mean);
  const auto [sum] = sums_over<1>(features, [&](auto at, Floats(&sums)[1]) HWY_ATTR {
    const Floats centred = at.valid(hn::Sub(at.get(x), means));
    sums[0] = hn::MulAdd(centred, centred, sums[0]);
  });
  return sum / static_cast<float>(features);
}

/// residual += x + bias, rounded to its dtype; bias may be null.
template <class T, class W>
HWY_INLINE void add_with_bias(const T* x, const W* bias, std::int64_t features, T* residual) {
  if (bias == nullptr) {
    for_vectors(features,
                [&](auto at) HWY_ATTR { at.set(hn::Add(at.get(residual), at.get(x)), residual); });
    return;
  }
  for_vectors(features, [&](auto at) HWY_ATTR {
    at.set(hn::Add(at.get(residual), hn::Add(at.get(x), at.get(bias))), residual);
  });
}

template <class T, class W>
void layer_norm_typed(const LayerNormRows& arguments, std::int64_t begin, std::int64_t end) {
  const auto* const weight = static_cast<const W*>(arguments.weight);
  const auto* const bias = static_cast<const W*>(arguments.bias);
  for (std::int64_t row = begin; row < end; ++row) {
    const T* x = static_cast<const T*>(arguments.x) + row * arguments.x_stride;
    T* const out = static_cast<T*>(arguments.out) + row * arguments.out_stride;
    if (arguments.residual != nullptr) {
      T* const residual = static_cast<T*>(arguments.residual) + row * arguments.residual_stride;
      add_with_bias(x, static_cast<const W*>(arguments.x_bias), arguments.features, residual);
      x = residual;
    }
    const float mean = mean_of(x, arguments.features);
    const float variance = variance_of(x, mean, arguments.features);
    const Floats means = hn::Set(FloatTag(), mean);
    const Floats factor = hn::Set(FloatTag(), 1.0F / std::sqrt(variance + arguments.epsilon));
    for_vectors(arguments.features, [&](auto at) HWY_ATTR {
      const Floats normal = hn::Mul(hn::Sub(at.get(x), means), factor);
      at.set(hn::MulAdd(normal, at.get(weight), at.get(bias)), out);
    });
  }
}

void layer_norm(const LayerNormRows& arguments, std::int64_t begin, std::int64_t end) {
  dispatch_with_parameters(
      arguments.dtype, arguments.parameter_dtype, [&](auto type, auto parameter_type) {
        layer_norm_typed<typename decltype(type)::type, typename decltype(parameter_type)::type>(
            arguments, begin, end);
      });
}

/// The formulas are those of backends/portable/norm_backward.hpp: with h = grad_out * weight,
/// grad_x = inverse * (h - mean of h) - slope * (x - mean).
template <class T, class W, class G, class R>
void norm_backward_typed(const NormBackwardRows& arguments, std::int64_t begin, std::int64_t end,
                         float* grad_weight, float* grad_bias) {
  const FloatTag floats;
  const std::int64_t features = arguments.features;
  const auto count = static_cast<float>(features);
  const auto* const weight = static_cast<const W*>(arguments.weight);
  for (std::int64_t row = begin; row < end; ++row) {
    const T* const x = static_cast<const T*>(arguments.x) + row * arguments.x_stride;
    const G* const grad_out =
        static_cast<const G*>(arguments.grad_out) + row * arguments.grad_out_stride;
    R* const grad_x = static_cast<R*>(arguments.grad_x) + row * arguments.grad_x_stride;
    const float mean = arguments.centred ? mean_of(x, features) : 0.0F;
    const Floats means = hn::Set(floats, mean);
    const auto [squares, products, total] =
        sums_over<3>(features, [&](auto at, Floats(&sums)[3]) HWY_ATTR {
          const Floats centred = at.valid(hn::Sub(at.get(x), means));
          const Floats through = hn::Mul(at.get(grad_out), at.get(weight));
          sums[0] = hn::MulAdd(centred, centred, sums[0]);
          sums[1] = hn::MulAdd(centred, through, sums[1]);
          sums[2] = hn::Add(sums[2], through);
        });
    const float inverse = 1.0F / std::sqrt(squares / count + arguments.epsilon);
    const float slope = products / count * inverse * inverse * inverse;
    const Floats inverses = hn::Set(floats, inverse);
    const Floats slopes = hn::Set(floats, slope);
    const Floats shifts = hn::Set(floats, arguments.centred ? total / count : 0.0F);
    for_vectors(features, [&](auto at) HWY_ATTR {
      const Floats centred = hn::Sub(at.get(x), means);
      const Floats gradient = at.get(grad_out);
      const Floats through = hn::Mul(gradient, at.get(weight));
      Floats result = hn::Mul(inverses, hn::Sub(through, shifts));
      result = hn::NegMulAdd(slopes, centred, result);
      if (arguments.accumulate) result = hn::Add(result, at.get(grad_x));
      at.set(hn::MulAdd(hn::Mul(gradient, inverses), centred, at.get(grad_weight)), grad_weight);
      if (grad_bias != nullptr) at.set(hn::Add(gradient, at.get(grad_bias)), grad_bias);
      at.set(result, grad_x);
    });
  }
}

void norm_backward(const NormBackwardRows& arguments, std::int64_t begin, std::int64_t end,
                   float* grad_weight, float* grad_bias) {
  const auto with = [&](auto type, DType dtype, const auto& next) {
    dispatch_with_parameters(arguments.dtype, dtype, [&](auto own, auto other) {
      if constexpr (std::is_same_v<decltype(own), decltype(type)>) next(other);
    });
  };
  dispatch_floating(arguments.dtype, [&](auto type) {
    with(type, arguments.weight_dtype, [&](auto weight) {
      with(type, arguments.grad_out_dtype, [&](auto grad_out) {
        with(type, arguments.grad_x_dtype, [&](auto grad_x) {
          norm_backward_typed<typename decltype(type)::type, typename decltype(weight)::type,
                              typename decltype(grad_out)::type, typename decltype(grad_x)::type>(
              arguments, begin, end, grad_weight, grad_bias);
        });
      });
    });
  });
}

}  // namespace portolan::simd::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace portolan::simd {

HWY_EXPORT(layer_norm);
HWY_EXPORT(norm_backward);

void layer_norm(const LayerNormRows& arguments, std::int64_t begin, std::int64_t end) {
  HWY_DYNAMIC_DISPATCH(layer_norm)(arguments, begin, end);
}

void norm_backward(const NormBackwardRows& arguments, std::int64_t begin, std::int64_t end,
                   float* grad_weight, float* grad_bias) {
  HWY_DYNAMIC_DISPATCH(norm_backward)(arguments, begin, end, grad_weight, grad_bias);
}

}  // namespace portolan::simd
#endif
