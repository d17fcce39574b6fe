// SPDX-License-Identifier: Apache-2.0
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backends/openmp/simd/optimizer.cpp"
#include <hwy/foreach_target.h>  // must come before highway.h
#include <hwy/highway.h>

#include <algorithm>
#include <cmath>

#include "backends/openmp/simd/training_kernels.hpp"
#include "backends/openmp/simd/vector_math-inl.hpp"
#include "backends/portable/dispatch.hpp"

HWY_BEFORE_NAMESPACE();
namespace portolan::simd::HWY_NAMESPACE {

template <class Copy>
void adamw_typed(const AdamWElements& arguments, std::int64_t begin, std::int64_t end) {
  const FloatTag floats;
  const AdamWStep& step = arguments.step;
  const Floats gradient_scale = hn::Set(floats, step.gradient_scale);
  const Floats beta1 = hn::Set(floats, step.beta1);
  const Floats beta2 = hn::Set(floats, step.beta2);
  const Floats rest1 = hn::Set(floats, 1.0F - step.beta1);
  const Floats rest2 = hn::Set(floats, 1.0F - step.beta2);
  const Floats rate = hn::Set(floats, step.learning_rate / step.bias_correction1);
  const Floats root_correction = hn::Set(floats, 1.0F / std::sqrt(step.bias_correction2));
  const Floats epsilon = hn::Set(floats, step.epsilon);
  const Floats kept = hn::Set(floats, 1.0F - step.learning_rate * step.weight_decay);
  float* const param = arguments.param + begin;
  const float* const grad = arguments.grad + begin;
  float* const first_moment = arguments.first_moment + begin;
  float* const second_moment = arguments.second_moment + begin;
  Copy* const copy =
      arguments.copy == nullptr ? nullptr : static_cast<Copy*>(arguments.copy) + begin;
  for_vectors(end - begin, [&](auto at) HWY_ATTR {
    const Floats gradient = hn::Mul(at.get(grad), gradient_scale);
    const Floats first = hn::MulAdd(beta1, at.get(first_moment), hn::Mul(rest1, gradient));
    const Floats second =
        hn::MulAdd(beta2, at.get(second_moment), hn::Mul(rest2, hn::Mul(gradient, gradient)));
    const Floats denominator = hn::MulAdd(hn::Sqrt(second), root_correction, epsilon);
    const Floats updated =
        hn::NegMulAdd(rate, hn::Div(first, denominator), hn::Mul(at.get(param), kept));
    at.set(first, first_moment);
    at.set(second, second_moment);
    at.set(updated, param);
    if (copy != nullptr) at.set(updated, copy);
  });
}

void adamw(const AdamWElements& arguments, std::int64_t begin, std::int64_t end) {
  dispatch_floating(arguments.copy_dtype, [&](auto type) {
    adamw_typed<typename decltype(type)::type>(arguments, begin, end);
  });
}

/// Of f32 values, half a vector at a time: an f64 takes twice the room.
HWY_INLINE double squares_of_floats(const float* x, std::int64_t count) {
  const hn::ScalableTag<double> doubles;
  const hn::Rebind<float, decltype(doubles)> halves;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(doubles));
  auto sum0 = hn::Zero(doubles);
  auto sum1 = sum0;
  std::int64_t i = 0;
  for (; i + 2 * lanes <= count; i += 2 * lanes) {
    const auto first = hn::PromoteTo(doubles, hn::LoadU(halves, x + i));
    const auto second = hn::PromoteTo(doubles, hn::LoadU(halves, x + i + lanes));
    sum0 = hn::MulAdd(first, first, sum0);
    sum1 = hn::MulAdd(second, second, sum1);
  }
  double total = hn::GetLane(hn::SumOfLanes(doubles, hn::Add(sum0, sum1)));
  for (; i < count; ++i) total += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  return total;
}

template <class T>
double sum_of_squares_typed(const T* x, std::int64_t begin, std::int64_t end) {
  constexpr std::int64_t kChunk = 1024;
  HWY_ALIGN float floats[kChunk];
  double total = 0.0;
  for (std::int64_t chunk = begin; chunk < end; chunk += kChunk) {
    const std::int64_t count = std::min(kChunk, end - chunk);
    const T* const from = x + chunk;
    for_vectors(count, [&](auto at) HWY_ATTR { at.set(at.get(from), floats); });
    total += squares_of_floats(floats, count);
  }
  return total;
}

double sum_of_squares(const SquaresOf& arguments, std::int64_t begin, std::int64_t end) {
  if (arguments.dtype == DType::f32) {
    return squares_of_floats(static_cast<const float*>(arguments.x) + begin, end - begin);
  }
  double result = 0.0;
  dispatch_floating(arguments.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    result = sum_of_squares_typed(static_cast<const T*>(arguments.x), begin, end);
  });
  return result;
}

}  // namespace portolan::simd::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace portolan::simd {

HWY_EXPORT(adamw);
HWY_EXPORT(sum_of_squares);

void adamw(const AdamWElements& arguments, std::int64_t begin, std::int64_t end) {
  HWY_DYNAMIC_DISPATCH(adamw)(arguments, begin, end);
}

double sum_of_squares(const SquaresOf& arguments, std::int64_t begin, std::int64_t end) {
  return HWY_DYNAMIC_DISPATCH(sum_of_squares)(arguments, begin, end);
}

}  // namespace portolan::simd
#endif
