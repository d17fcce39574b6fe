// SPDX-License-Identifier: Apache-2.0
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backends/openmp/simd/loss.cpp"
#include <hwy/foreach_target.h>  // must come before highway.h
#include <hwy/highway.h>

#include <algorithm>
#include <cmath>

#include "backends/openmp/simd/training_kernels.hpp"
#include "backends/openmp/simd/vector_math-inl.hpp"
#include "backends/portable/dispatch.hpp"

HWY_BEFORE_NAMESPACE();
namespace portolan::simd::HWY_NAMESPACE {

/// Largest element, NaN passed over.
template <class T>
HWY_INLINE float maximum_of(const T* x, std::int64_t columns) {
  const FloatTag floats;
  const Floats lowest = hn::Set(floats, -HUGE_VALF);
  Floats largest = lowest;
  for_vectors(columns, [&](auto at) HWY_ATTR {
    // Lanes beyond the end read 0: they take part as the lowest number.
    const Floats value = at.valid_or(lowest, at.get(x));
    largest = hn::IfThenElse(hn::Lt(largest, value), value, largest);
  });
  return hn::GetLane(hn::MaxOfLanes(floats, largest));
}

/// Sum of exp(x - shift).
template <class T>
HWY_INLINE float sum_of_exponentials(const T* x, float shift, std::int64_t columns) {
  const Floats shifts = hn::Set(FloatTag(), shift);
  const auto [sum] = sums_over<1>(columns, [&](auto at, Floats(&sums)[1]) HWY_ATTR {
    sums[0] = hn::Add(sums[0], at.valid(exp_of_negative(hn::Sub(at.get(x), shifts))));
  });
  return sum;
}

/// As in backends/portable/loss.hpp: a row of -infinity alone sums up to 0, one with NaN to NaN.
HWY_INLINE float finite_shift(float largest) { return largest == -HUGE_VALF ? 0.0F : largest; }

template <class T>
void softmax_typed(const SoftmaxRows& arguments, std::int64_t begin, std::int64_t end) {
  for (std::int64_t row = begin; row < end; ++row) {
    const T* const x = static_cast<const T*>(arguments.x) + row * arguments.x_stride;
    T* const out = static_cast<T*>(arguments.out) + row * arguments.out_stride;
    const float shift = finite_shift(maximum_of(x, arguments.columns));
    const float total = sum_of_exponentials(x, shift, arguments.columns);
    const Floats shifts = hn::Set(FloatTag(), shift);
    const Floats factor = hn::Set(FloatTag(), total == 0.0F ? 0.0F : 1.0F / total);
    for_vectors(arguments.columns, [&](auto at) HWY_ATTR {
      at.set(hn::Mul(exp_of_negative(hn::Sub(at.get(x), shifts)), factor), out);
    });
    arguments.log_sum_exp[row] = shift + std::log(total);
  }
}

void softmax(const SoftmaxRows& arguments, std::int64_t begin, std::int64_t end) {
  dispatch_floating(arguments.dtype, [&](auto type) {
    softmax_typed<typename decltype(type)::type>(arguments, begin, end);
  });
}

template <class T>
void cross_entropy_typed(const CrossEntropyRows& arguments, std::int64_t begin, std::int64_t end) {
  for (std::int64_t row = begin; row < end; ++row) {
    const T* const logits = static_cast<const T*>(arguments.logits) + row * arguments.stride;
    const std::int32_t label = arguments.labels[row];
    const std::int64_t column = label - arguments.first_column;
    const bool here = label != arguments.ignore_label && column >= 0 && column < arguments.columns;
    const float largest = maximum_of(logits, arguments.columns);
    arguments.maximum[row] = largest;
    arguments.sum[row] = sum_of_exponentials(logits, finite_shift(largest), arguments.columns);
    arguments.target[row] = here ? to_float(logits[column]) : 0.0F;
  }
}

void cross_entropy(const CrossEntropyRows& arguments, std::int64_t begin, std::int64_t end) {
  dispatch_floating(arguments.dtype, [&](auto type) {
    cross_entropy_typed<typename decltype(type)::type>(arguments, begin, end);
  });
}

template <class T>
void cross_entropy_backward_typed(const CrossEntropyBackwardRows& arguments, std::int64_t begin,
                                  std::int64_t end) {
  const FloatTag floats;
  for (std::int64_t row = begin; row < end; ++row) {
    const T* const logits = static_cast<const T*>(arguments.logits) + row * arguments.stride;
    T* const out = static_cast<T*>(arguments.grad_logits) + row * arguments.grad_stride;
    const std::int32_t label = arguments.labels[row];
    if (label == arguments.ignore_label) {
      std::fill_n(out, arguments.columns, T{});
      continue;
    }
    const std::int64_t column = label - arguments.first_column;
    const bool here = column >= 0 && column < arguments.columns;
    const float target = here ? to_float(logits[column]) : 0.0F;  // out may be logits
    const float shift = arguments.log_sum_exp[row];
    const Floats shifts = hn::Set(floats, shift);
    const Floats scale = hn::Set(floats, arguments.scale);
    for_vectors(arguments.columns, [&](auto at) HWY_ATTR {
      at.set(hn::Mul(exp_of_negative(hn::Sub(at.get(logits), shifts)), scale), out);
    });
    if (here) {
      out[column] = from_float<T>((std::exp(target - shift) - 1.0F) * arguments.scale);
    }
  }
}

void cross_entropy_backward(const CrossEntropyBackwardRows& arguments, std::int64_t begin,
                            std::int64_t end) {
  dispatch_floating(arguments.dtype, [&](auto type) {
    cross_entropy_backward_typed<typename decltype(type)::type>(arguments, begin, end);
  });
}

}  // namespace portolan::simd::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace portolan::simd {

HWY_EXPORT(softmax);
HWY_EXPORT(cross_entropy);
HWY_EXPORT(cross_entropy_backward);

void softmax(const SoftmaxRows& arguments, std::int64_t begin, std::int64_t end) {
  HWY_DYNAMIC_DISPATCH(softmax)(arguments, begin, end);
}

void cross_entropy(const CrossEntropyRows& arguments, std::int64_t begin, std::int64_t end) {
  HWY_DYNAMIC_DISPATCH(cross_entropy)(arguments, begin, end);
}

void cross_entropy_backward(const CrossEntropyBackwardRows& arguments, std::int64_t begin,
                            std::int64_t end) {
  HWY_DYNAMIC_DISPATCH(cross_entropy_backward)(arguments, begin, end);
}

}  // namespace portolan::simd
#endif
