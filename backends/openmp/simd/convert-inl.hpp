// SPDX-License-Identifier: Apache-2.0
// Vectors of f32 from and to memory of any dtype the engine computes in. Included once for each
// instruction set, hence the guard of Highway's instead of `#pragma once`.
#if defined(PORTOLAN_BACKENDS_OPENMP_SIMD_CONVERT_INL_HPP) == defined(HWY_TARGET_TOGGLE)
#ifdef PORTOLAN_BACKENDS_OPENMP_SIMD_CONVERT_INL_HPP
#undef PORTOLAN_BACKENDS_OPENMP_SIMD_CONVERT_INL_HPP
#else
#define PORTOLAN_BACKENDS_OPENMP_SIMD_CONVERT_INL_HPP
#endif

#include <hwy/highway.h>

#include <cstdint>
#include <type_traits>

#include "core/dtype.hpp"

HWY_BEFORE_NAMESPACE();
namespace portolan::simd::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

using FloatTag = hn::ScalableTag<float>;
using Floats = hn::Vec<FloatTag>;
using WordTag = hn::RebindToUnsigned<FloatTag>;
using Words = hn::Vec<WordTag>;
using HalfWordTag = hn::Rebind<std::uint16_t, FloatTag>;  // as many lanes, half as wide
using HalfWords = hn::Vec<HalfWordTag>;

/// Exact. The integer steps are those of core/dtype.hpp, so that every backend agrees to the bit.
HWY_INLINE Floats floats_of(BFloat16 /*type*/, HalfWords bits) {
  const WordTag words;
  return hn::BitCast(FloatTag(), hn::ShiftLeft<16>(hn::PromoteTo(words, bits)));
}

HWY_INLINE Floats floats_of(Float16 /*type*/, HalfWords bits) {
  const FloatTag floats;
  const WordTag words;
  const Words wide = hn::PromoteTo(words, bits);
  const Words sign = hn::ShiftLeft<16>(hn::And(wide, hn::Set(words, 0x8000u)));
  const Words magnitude = hn::And(wide, hn::Set(words, 0x7FFFu));
  const Words shifted = hn::ShiftLeft<13>(magnitude);
  const Words finite =
      hn::BitCast(words, hn::Mul(hn::BitCast(floats, shifted), hn::Set(floats, 0x1p112F)));
  const Words special =
      hn::Or(hn::Set(words, 0x7F800000u), hn::And(shifted, hn::Set(words, 0x7FFFFFu)));
  const auto is_special = hn::Gt(magnitude, hn::Set(words, 0x7BFFu));
  return hn::BitCast(floats, hn::Or(sign, hn::IfThenElse(is_special, special, finite)));
}

/// To nearest, ties to even.
HWY_INLINE HalfWords half_words_of(BFloat16 /*type*/, Floats value) {
  const WordTag words;
  const Words bits = hn::BitCast(words, value);
  const Words upper = hn::ShiftRight<16>(bits);
  const Words odd = hn::And(upper, hn::Set(words, 1u));
  const Words rounded = hn::ShiftRight<16>(hn::Add(bits, hn::Add(odd, hn::Set(words, 0x7FFFu))));
  const auto is_nan = hn::RebindMask(words, hn::IsNaN(value));
  const Words result = hn::IfThenElse(is_nan, hn::Or(upper, hn::Set(words, 0x40u)), rounded);
  return hn::TruncateTo(HalfWordTag(), result);
}

HWY_INLINE HalfWords half_words_of(Float16 /*type*/, Floats value) {
  const FloatTag floats;
  const WordTag words;
  const Words bits = hn::BitCast(words, value);
  const Words sign = hn::And(hn::ShiftRight<16>(bits), hn::Set(words, 0x8000u));
  const Words magnitude = hn::And(bits, hn::Set(words, 0x7FFFFFFFu));
  const Words aligned =
      hn::BitCast(words, hn::Add(hn::BitCast(floats, magnitude), hn::Set(floats, 0.5F)));
  const Words subnormal = hn::Sub(aligned, hn::Set(words, 0x3F000000u));
  const Words rebased = hn::Sub(magnitude, hn::Set(words, 0x38000000u));
  const Words odd = hn::And(hn::ShiftRight<13>(rebased), hn::Set(words, 1u));
  const Words normal = hn::ShiftRight<13>(hn::Add(rebased, hn::Add(odd, hn::Set(words, 0xFFFu))));
  Words result = hn::IfThenElse(hn::Lt(magnitude, hn::Set(words, 0x38800000u)), subnormal, normal);
  result = hn::IfThenElse(hn::Gt(magnitude, hn::Set(words, 0x477FEFFFu)), hn::Set(words, 0x7C00u),
                          result);
  result = hn::IfThenElse(hn::Gt(magnitude, hn::Set(words, 0x7F800000u)), hn::Set(words, 0x7E00u),
                          result);
  return hn::TruncateTo(HalfWordTag(), hn::Or(sign, result));
}

HWY_INLINE Floats load(const float* from) { return hn::LoadU(FloatTag(), from); }

template <class T>
HWY_INLINE Floats load(const T* from) {
  return floats_of(T{}, hn::LoadU(HalfWordTag(), &from->bits));
}

HWY_INLINE void store(Floats value, float* to) { hn::StoreU(value, FloatTag(), to); }

template <class T>
HWY_INLINE void store(Floats value, T* to) {
  hn::StoreU(half_words_of(T{}, value), HalfWordTag(), &to->bits);
}

#if HWY_TARGET != HWY_SCALAR
/// Two vectors rounded to bf16, in order: the upper halves of their words. kArithmetic: results of
/// arithmetic on bf16, whose NaNs have nothing in their lower halves that could carry.
template <bool kArithmetic>
HWY_INLINE hn::Vec<hn::Repartition<std::uint16_t, FloatTag>> rounded_pair(Floats first,
                                                                          Floats second) {
  const WordTag words;
  const hn::Repartition<std::uint16_t, FloatTag> half_words;
  const auto rounded = [&](Floats value) HWY_ATTR {
    const Words bits = hn::BitCast(words, value);
    const Words odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(words, 1u));
    const Words sum = hn::Add(bits, hn::Add(odd, hn::Set(words, 0x7FFFu)));
    if constexpr (kArithmetic) return sum;
    const Words quiet = hn::Or(bits, hn::Set(words, 0x400000u));
    return hn::IfThenElse(hn::RebindMask(words, hn::IsNaN(value)), quiet, sum);
  };
  return hn::ConcatOdd(half_words, hn::BitCast(half_words, rounded(second)),
                       hn::BitCast(half_words, rounded(first)));
}
#endif

/// Past the cache; `to` must be aligned to a vector.
HWY_INLINE void store_streaming(Floats value, float* to) { hn::Stream(value, FloatTag(), to); }

template <class T>
HWY_INLINE void store_streaming(Floats value, T* to) {
  hn::Stream(half_words_of(T{}, value), HalfWordTag(), &to->bits);
}

/// Aligned to what put_pair writes at once, too.
template <class T>
HWY_INLINE bool can_stream(const T* to) {
  return reinterpret_cast<std::uintptr_t>(to) % (hn::Lanes(FloatTag()) * sizeof(float)) == 0;
}

template <bool kStream, class T>
HWY_INLINE void put(Floats value, T* to) {
  if constexpr (kStream) {
    store_streaming(value, to);
  } else {
    store(value, to);
  }
}

/// Two neighbouring vectors, which for bf16 is cheaper than one after the other; more so for
/// results of arithmetic on T, not on wider numbers.
template <bool kStream, bool kArithmetic = false, class T>
HWY_INLINE void put_pair(Floats first, Floats second, T* to) {
#if HWY_TARGET != HWY_SCALAR
  if constexpr (std::is_same_v<T, BFloat16>) {
    const hn::Repartition<std::uint16_t, FloatTag> half_words;
    if constexpr (kStream) {
      hn::Stream(rounded_pair<kArithmetic>(first, second), half_words, &to->bits);
    } else {
      hn::StoreU(rounded_pair<kArithmetic>(first, second), half_words, &to->bits);
    }
    return;
  }
#endif
  put<kStream>(first, to);
  put<kStream>(second, to + hn::Lanes(FloatTag()));
}

/// The first `count` lanes; the others are 0.
template <class T>
HWY_INLINE Floats load_first(const T* from, std::int64_t count) {
  HWY_ALIGN T padded[hn::MaxLanes(FloatTag())] = {};
  for (std::int64_t i = 0; i < count; ++i) padded[i] = from[i];
  return load(padded);
}

template <class T>
HWY_INLINE void store_first(Floats value, T* to, std::int64_t count) {
  HWY_ALIGN T padded[hn::MaxLanes(FloatTag())];
  store(value, padded);
  for (std::int64_t i = 0; i < count; ++i) to[i] = padded[i];
}

/// `count` elements in f32, then zeros up to `padded`.
template <class T>
HWY_INLINE void widen(const T* from, std::int64_t count, std::int64_t padded, float* to) {
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(FloatTag()));
  std::int64_t i = 0;
  for (; i + lanes <= count; i += lanes) store(load(from + i), to + i);
  for (; i < count; ++i) to[i] = to_float(from[i]);
  for (; i < padded; ++i) to[i] = 0.0F;
}

}  // namespace portolan::simd::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
