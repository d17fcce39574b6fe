// SPDX-License-Identifier: Apache-2.0
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backends/openmp/simd/transformer.cpp"
#include <hwy/foreach_target.h>  // must come before highway.h
#include <hwy/highway.h>

#include <algorithm>
#include <cmath>

#include "backends/openmp/simd/convert-inl.hpp"
#include "backends/openmp/simd/kernels.hpp"
#include "backends/portable/dispatch.hpp"
#include "hwy/cache_control.h"

HWY_BEFORE_NAMESPACE();
namespace portolan::simd::HWY_NAMESPACE {

/// Sum of squares in f32. Four vectors of partial sums hide the latency of the addition and keep
/// the rounding error near that of a pairwise sum.
template <class T>
HWY_INLINE float sum_of_squares(const T* values, std::int64_t count) {
  const FloatTag floats;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(floats));
  Floats sum0 = hn::Zero(floats);
  Floats sum1 = sum0;
  Floats sum2 = sum0;
  Floats sum3 = sum0;
  std::int64_t i = 0;
  for (; i + 4 * lanes <= count; i += 4 * lanes) {
    const Floats value0 = load(values + i);
    const Floats value1 = load(values + i + lanes);
    const Floats value2 = load(values + i + 2 * lanes);
    const Floats value3 = load(values + i + 3 * lanes);
    sum0 = hn::MulAdd(value0, value0, sum0);
    sum1 = hn::MulAdd(value1, value1, sum1);
    sum2 = hn::MulAdd(value2, value2, sum2);
    sum3 = hn::MulAdd(value3, value3, sum3);
  }
  for (; i + lanes <= count; i += lanes) {
    const Floats value = load(values + i);
    sum0 = hn::MulAdd(value, value, sum0);
  }
  if (i < count) {
    const Floats value = load_first(values + i, count - i);
    sum1 = hn::MulAdd(value, value, sum1);
  }
  const Floats sum = hn::Add(hn::Add(sum0, sum1), hn::Add(sum2, sum3));
  return hn::GetLane(hn::SumOfLanes(floats, sum));
}

/// residual += x, rounded to its dtype.
template <class T>
HWY_INLINE void add_to(T* residual, const T* x, std::int64_t count) {
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(FloatTag()));
  std::int64_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    store(hn::Add(load(residual + i), load(x + i)), residual + i);
  }
  if (i < count) {
    store_first(hn::Add(load_first(residual + i, count - i), load_first(x + i, count - i)),
                residual + i, count - i);
  }
}

template <bool kStream, class T, class W>
HWY_INLINE void scale_row(const T* values, const W* weight, float factor, std::int64_t count,
                          T* out) {
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(FloatTag()));
  const Floats factors = hn::Set(FloatTag(), factor);
  std::int64_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    put<kStream>(hn::Mul(hn::Mul(load(values + i), factors), load(weight + i)), out + i);
  }
  if (i < count) {
    const Floats value = hn::Mul(load_first(values + i, count - i), factors);
    store_first(hn::Mul(value, load_first(weight + i, count - i)), out + i, count - i);
  }
}

template <class T, class W>
void rms_norm_typed(const RmsNormRows& arguments, std::int64_t begin, std::int64_t end) {
  const std::int64_t features = arguments.features;
  const auto* const weight = static_cast<const W*>(arguments.weight);
  for (std::int64_t row = begin; row < end; ++row) {
    const T* values = static_cast<const T*>(arguments.x) + row * arguments.x_stride;
    if (arguments.residual != nullptr) {
      T* const residual = static_cast<T*>(arguments.residual) + row * arguments.residual_stride;
      add_to(residual, values, features);
      values = residual;
    }
    const float mean = sum_of_squares(values, features) / static_cast<float>(features);
    const float factor = 1.0F / std::sqrt(mean + arguments.epsilon);
    T* const out = static_cast<T*>(arguments.out) + row * arguments.out_stride;
    if (arguments.stream && can_stream(out)) {
      scale_row<true>(values, weight, factor, features, out);
    } else {
      scale_row<false>(values, weight, factor, features, out);
    }
  }
  if (arguments.stream) hwy::FlushStream();
}

void rms_norm(const RmsNormRows& arguments, std::int64_t begin, std::int64_t end) {
  dispatch_floating(arguments.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    if (arguments.weight_dtype == arguments.dtype) {
      rms_norm_typed<T, T>(arguments, begin, end);
    } else {
      rms_norm_typed<T, float>(arguments, begin, end);
    }
  });
}

struct Turned {
  Floats first;
  Floats second;
};

HWY_INLINE Turned turn(Floats a, Floats b, Floats cosine, Floats sine) {
  return {hn::NegMulAdd(b, sine, hn::Mul(a, cosine)), hn::MulAdd(a, sine, hn::Mul(b, cosine))};
}

template <class T>
HWY_INLINE void rotate(T* first, T* second, const float* cosine, const float* sine,
                       Floats direction, std::int64_t half) {
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(FloatTag()));
  const auto at = [&](std::int64_t i) HWY_ATTR {
    return turn(load(first + i), load(second + i), load(cosine + i),
                hn::Mul(direction, load(sine + i)));
  };
  std::int64_t i = 0;
  for (; i + 2 * lanes <= half; i += 2 * lanes) {
    const Turned lower = at(i);
    const Turned upper = at(i + lanes);
    put_pair<false, true>(lower.first, upper.first, first + i);
    put_pair<false, true>(lower.second, upper.second, second + i);
  }
  for (; i < half; i += lanes) {
    const std::int64_t count = std::min(lanes, half - i);
    const Turned turned =
        turn(load_first(first + i, count), load_first(second + i, count),
             load_first(cosine + i, count), hn::Mul(direction, load_first(sine + i, count)));
    store_first(turned.first, first + i, count);
    store_first(turned.second, second + i, count);
  }
}

template <class T>
void rotary_typed(const RotaryTokens& arguments, std::int64_t begin, std::int64_t end) {
  const Floats direction = hn::Set(FloatTag(), arguments.inverse ? -1.0F : 1.0F);
  for (std::int64_t token = begin; token < end; ++token) {
    const std::int64_t position = arguments.positions[token * arguments.positions_stride];
    const float* const cosine = arguments.cosines + position * arguments.cosine_stride;
    const float* const sine = arguments.sines + position * arguments.sine_stride;
    T* const row = static_cast<T*>(arguments.x) + token * arguments.token_stride;
    for (std::int64_t head = 0; head < arguments.heads; ++head) {
      T* const first = row + head * arguments.head_stride;
      rotate(first, first + arguments.half, cosine, sine, direction, arguments.half);
    }
  }
}

void rotary_embedding(const RotaryTokens& arguments, std::int64_t begin, std::int64_t end) {
  dispatch_floating(arguments.dtype, [&](auto type) {
    rotary_typed<typename decltype(type)::type>(arguments, begin, end);
  });
}

void merge_attention(const MergeRows& arguments, std::int64_t begin, std::int64_t end) {
  const FloatTag floats;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(floats));
  for (std::int64_t row = begin; row < end; ++row) {
    const std::int64_t head = row % arguments.heads;
    const std::int64_t token = row / arguments.heads % arguments.tokens;
    const std::int64_t batch = row / arguments.heads / arguments.tokens;
    const std::int64_t index = (batch * arguments.heads + head) * arguments.tokens + token;
    const float mine = arguments.log_sum_exp[index];
    const float other = arguments.block_log_sum_exp[index];
    if (mine == -HUGE_VALF && other == -HUGE_VALF) continue;  // neither side has seen a key
    const float largest = std::max(mine, other);
    const float my_part = std::exp(mine - largest);
    const float other_part = std::exp(other - largest);
    const float total = my_part + other_part;
    const Floats my_weight = hn::Set(floats, my_part / total);
    const Floats other_weight = hn::Set(floats, other_part / total);
    float* const out = arguments.out + row * arguments.head_dim;
    const float* const block = arguments.block_out + row * arguments.head_dim;
    std::int64_t i = 0;
    for (; i + lanes <= arguments.head_dim; i += lanes) {
      store(hn::MulAdd(load(block + i), other_weight, hn::Mul(load(out + i), my_weight)), out + i);
    }
    if (i < arguments.head_dim) {
      const std::int64_t rest = arguments.head_dim - i;
      const Floats own = hn::Mul(load_first(out + i, rest), my_weight);
      store_first(hn::MulAdd(load_first(block + i, rest), other_weight, own), out + i, rest);
    }
    arguments.log_sum_exp[index] = largest + std::log(total);
  }
}

template <class T, class G>
void delta_typed(const DeltaRows& arguments, std::int64_t begin, std::int64_t end) {
  const FloatTag floats;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(floats));
  const std::int64_t head_dim = arguments.head_dim;
  for (std::int64_t row = begin; row < end; ++row) {
    const std::int64_t head = row % arguments.heads;
    const std::int64_t token = row / arguments.heads % arguments.tokens;
    const std::int64_t batch = row / arguments.heads / arguments.tokens;
    const auto row_of = [&](const HeadRows& rows) {
      return batch * rows.batch_stride + token * rows.token_stride + head * rows.head_stride;
    };
    const T* const out = static_cast<const T*>(arguments.out.data) + row_of(arguments.out);
    const G* const gradient =
        static_cast<const G*>(arguments.grad_out.data) + row_of(arguments.grad_out);
    Floats sum = hn::Zero(floats);
    std::int64_t i = 0;
    for (; i + lanes <= head_dim; i += lanes) {
      sum = hn::MulAdd(load(out + i), load(gradient + i), sum);
    }
    if (i < head_dim) {
      const std::int64_t rest = head_dim - i;
      sum = hn::MulAdd(load_first(out + i, rest), load_first(gradient + i, rest), sum);
    }
    arguments.delta[batch * arguments.delta_batch_stride + head * arguments.delta_head_stride +
                    token * arguments.delta_token_stride] =
        hn::GetLane(hn::SumOfLanes(floats, sum));
  }
}

void attention_delta(const DeltaRows& arguments, std::int64_t begin, std::int64_t end) {
  dispatch_floating(arguments.out.dtype, arguments.grad_out.dtype, [&](auto type, auto grad_type) {
    delta_typed<typename decltype(type)::type, typename decltype(grad_type)::type>(arguments, begin,
                                                                                   end);
  });
}

}  // namespace portolan::simd::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace portolan::simd {

HWY_EXPORT(rms_norm);
HWY_EXPORT(rotary_embedding);
HWY_EXPORT(merge_attention);
HWY_EXPORT(attention_delta);

void rms_norm(const RmsNormRows& arguments, std::int64_t begin, std::int64_t end) {
  HWY_DYNAMIC_DISPATCH(rms_norm)(arguments, begin, end);
}

void rotary_embedding(const RotaryTokens& arguments, std::int64_t begin, std::int64_t end) {
  HWY_DYNAMIC_DISPATCH(rotary_embedding)(arguments, begin, end);
}

void attention_delta(const DeltaRows& arguments, std::int64_t begin, std::int64_t end) {
  HWY_DYNAMIC_DISPATCH(attention_delta)(arguments, begin, end);
}

void merge_attention(const MergeRows& arguments, std::int64_t begin, std::int64_t end) {
  HWY_DYNAMIC_DISPATCH(merge_attention)(arguments, begin, end);
}

}  // namespace portolan::simd
#endif
