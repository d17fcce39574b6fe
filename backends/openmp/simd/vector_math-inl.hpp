// SPDX-License-Identifier: Apache-2.0
// Functions of vectors, and loops over vectors whose last one is partial. Included once for each
// instruction set, hence the guard of Highway's instead of `#pragma once`.
#if defined(PORTOLAN_BACKENDS_OPENMP_SIMD_VECTOR_MATH_INL_HPP) == defined(HWY_TARGET_TOGGLE)
#ifdef PORTOLAN_BACKENDS_OPENMP_SIMD_VECTOR_MATH_INL_HPP
#undef PORTOLAN_BACKENDS_OPENMP_SIMD_VECTOR_MATH_INL_HPP
#else
#define PORTOLAN_BACKENDS_OPENMP_SIMD_VECTOR_MATH_INL_HPP
#endif

#include <hwy/highway.h>

#include <array>
#include <cstddef>
#include <cstdint>

#include "backends/openmp/simd/convert-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace portolan::simd::HWY_NAMESPACE {

/// Elements [i, i + lanes) of whatever arrays a loop's body names.
struct WholeVector {
  std::int64_t i;

  template <class T>
  HWY_INLINE Floats get(const T* from) const {
    return load(from + i);
  }
  template <class T>
  HWY_INLINE void set(Floats value, T* to) const {
    store(value, to + i);
  }
  /// What takes part in a sum.
  HWY_INLINE Floats valid(Floats value) const { return value; }
  HWY_INLINE Floats valid_or(Floats /*other*/, Floats value) const { return value; }
};

/// The last elements, fewer than a vector has; lanes beyond them read 0.
struct PartVector {
  std::int64_t i;
  std::int64_t count;

  template <class T>
  HWY_INLINE Floats get(const T* from) const {
    return load_first(from + i, count);
  }
  template <class T>
  HWY_INLINE void set(Floats value, T* to) const {
    store_first(value, to + i, count);
  }
  HWY_INLINE Floats valid(Floats value) const { return valid_or(hn::Zero(FloatTag()), value); }
  HWY_INLINE Floats valid_or(Floats other, Floats value) const {
    return hn::IfThenElse(hn::FirstN(FloatTag(), static_cast<std::size_t>(count)), value, other);
  }
};

/// Calls body(vector) for each vector of [begin, end).
template <class Body>
HWY_INLINE void for_vectors(std::int64_t begin, std::int64_t end, const Body& body) {
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(FloatTag()));
  std::int64_t i = begin;
  for (; i + lanes <= end; i += lanes) body(WholeVector{i});
  if (i < end) body(PartVector{i, end - i});
}

/// As above over [0, count).
template <class Body>
HWY_INLINE void for_vectors(std::int64_t count, const Body& body) {
  for_vectors(0, count, body);
}

/// kSums sums over [0, count), to whose vectors body(vector, sums) adds. Every so many vectors a
/// new partial sum is begun, which keeps the rounding error near that of a pairwise sum.
template <std::size_t kSums, class Body>
HWY_INLINE std::array<float, kSums> sums_over(std::int64_t count, const Body& body) {
  const FloatTag floats;
  const std::int64_t block = 64 * static_cast<std::int64_t>(hn::Lanes(floats));
  Floats totals[kSums];
  for (Floats& total : totals) total = hn::Zero(floats);
  for (std::int64_t begin = 0; begin < count; begin += block) {
    Floats sums[kSums];
    for (Floats& sum : sums) sum = hn::Zero(floats);
    for_vectors(begin, begin + block < count ? begin + block : count,
                [&](auto at) HWY_ATTR { body(at, sums); });
    for (std::size_t k = 0; k < kSums; ++k) totals[k] = hn::Add(totals[k], sums[k]);
  }
  std::array<float, kSums> result;
  for (std::size_t k = 0; k < kSums; ++k) {
    result[k] = hn::GetLane(hn::SumOfLanes(floats, totals[k]));
  }
  return result;
}

/// 2^n exp(r), n an integer that stands in the lowest bits of `shifted`, |r| <= ln 2 / 2: exp(r) by
/// the minimax polynomial of degree 6 (relative error 3e-9, fitted by Lawson's iteration); the
/// power of two goes into the exponent's bits.
HWY_INLINE Floats scaled_exp(Floats shifted, Floats r) {
  const FloatTag floats;
  const WordTag words;
  const Floats square = hn::Mul(r, r);
  const Floats low = hn::MulAdd(r, hn::Set(floats, 0.166665211F), hn::Set(floats, 0.49999994F));
  const Floats middle =
      hn::MulAdd(r, hn::Set(floats, 0.00836871658F), hn::Set(floats, 0.041668389F));
  const Floats high = hn::MulAdd(square, hn::Set(floats, 0.00138145988F), middle);
  const Floats tail = hn::MulAdd(high, square, low);
  const Floats power = hn::Add(hn::MulAdd(square, tail, r), hn::Set(floats, 1.0F));
  const Words exponent = hn::ShiftLeft<23>(hn::BitCast(words, shifted));
  return hn::BitCast(floats, hn::Add(hn::BitCast(words, power), exponent));
}

/// Adding 1.5 * 2^23 rounds to an integer, which then stands in the lowest bits.
constexpr float kRoundingShift = 0x1.8p23F;
/// ln 2 in two parts, the first short enough for exact products.
constexpr float kLn2High = 0.693145752F;
constexpr float kLn2Low = 1.42860682e-6F;

/// exp(x) for x <= 0, within 1.02 units in the last place; 0 below -87.3, where f32 loses
/// precision. x = n ln 2 + r.
HWY_INLINE Floats exp_of_negative(Floats x) {
  const FloatTag floats;
  const Floats shift = hn::Set(floats, kRoundingShift);
  const Floats shifted = hn::MulAdd(x, hn::Set(floats, 1.44269504F), shift);
  const Floats n = hn::Sub(shifted, shift);
  const Floats coarse = hn::NegMulAdd(n, hn::Set(floats, kLn2High), x);
  const Floats result = scaled_exp(shifted, hn::NegMulAdd(n, hn::Set(floats, kLn2Low), coarse));
  // Written so that NaN stays NaN.
  return hn::IfThenZeroElse(hn::Lt(x, hn::Set(floats, -87.3F)), result);
}

/// exp(-x), between exp(-87) and exp(87) also where x is larger or smaller.
HWY_INLINE Floats exp_of_opposite(Floats x) {
  const FloatTag floats;
  const Floats bounded = hn::Min(hn::Max(x, hn::Set(floats, -87.0F)), hn::Set(floats, 87.0F));
  const Floats shift = hn::Set(floats, kRoundingShift);
  const Floats shifted = hn::NegMulAdd(bounded, hn::Set(floats, 1.44269504F), shift);
  const Floats n = hn::Sub(shifted, shift);
  const Floats coarse = hn::NegMulSub(n, hn::Set(floats, kLn2High), bounded);
  return scaled_exp(shifted, hn::NegMulAdd(n, hn::Set(floats, kLn2Low), coarse));
}

/// exp(-x) for results in bf16: within 2^-13.7, a 24th of bf16's own rounding error, by the minimax
/// polynomial of degree 3 and ln 2 in one part. Bounded as above.
HWY_INLINE Floats coarse_exp_of_opposite(Floats x) {
  const FloatTag floats;
  const WordTag words;
  const Floats bounded = hn::Min(hn::Max(x, hn::Set(floats, -87.0F)), hn::Set(floats, 87.0F));
  const Floats shift = hn::Set(floats, kRoundingShift);
  const Floats shifted = hn::NegMulAdd(bounded, hn::Set(floats, 1.44269504F), shift);
  const Floats n = hn::Sub(shifted, shift);
  const Floats r = hn::NegMulSub(n, hn::Set(floats, 0.693147182F), bounded);
  Floats power = hn::Set(floats, 0.165668219F);
  power = hn::MulAdd(power, r, hn::Set(floats, 0.504964232F));
  power = hn::MulAdd(power, r, hn::Set(floats, 1.00016427F));
  power = hn::MulAdd(power, r, hn::Set(floats, 0.999928057F));
  const Words exponent = hn::ShiftLeft<23>(hn::BitCast(words, shifted));
  return hn::BitCast(floats, hn::Add(hn::BitCast(words, power), exponent));
}

/// 1 / x within two units in the last place, for x whose reciprocal is a normal number.
HWY_INLINE Floats reciprocal(Floats x) {
  const FloatTag floats;
#if HWY_TARGET <= HWY_AVX3 && HWY_ARCH_X86
  // 14 bits, which one step of Newton's doubles; a division takes several times as long.
  const Floats guess = hn::ApproximateReciprocal(x);
  return hn::MulAdd(guess, hn::NegMulAdd(guess, x, hn::Set(floats, 1.0F)), guess);
#else
  return hn::Div(hn::Set(floats, 1.0F), x);
#endif
}

/// 1 / x for results in bf16: within 2^-14.
HWY_INLINE Floats coarse_reciprocal(Floats x) {
#if HWY_TARGET <= HWY_AVX3 && HWY_ARCH_X86
  return hn::ApproximateReciprocal(x);
#else
  return reciprocal(x);
#endif
}

/// 1 / (1 + exp(-x)) and its complement, both to full relative precision: with s = exp(-|x|), which
/// never overflows, they are 1 / (1 + s) and s / (1 + s), or the other way round.
struct Sigmoid {
  Floats value;
  Floats complement;
};

HWY_INLINE Sigmoid sigmoid(Floats x) {
  const Floats one = hn::Set(FloatTag(), 1.0F);
  const Floats s = exp_of_negative(hn::Neg(hn::Abs(x)));
  const Floats large = reciprocal(hn::Add(one, s));
  const Floats small = hn::Mul(s, large);
  return {hn::IfNegativeThenElse(x, small, large), hn::IfNegativeThenElse(x, large, small)};
}

inline constexpr float kErfcCoefficients[] = {0.169192806F,  0.170632914F,   0.148932323F,
                                              0.212580517F,  -0.0890771449F, 0.539554298F,
                                              -0.505057931F, 0.482031614F,   -0.12878944F};

/// The normal distribution Phi(x) and its density. With z = |x| / sqrt(2) and
/// t = 1 / (1 + 0.3 z), erfc(z) = exp(-z^2) t P(t), P of degree 8 by Chebyshev interpolation on z
/// in [0, 10] (relative error 3e-8; 1.4e-7 when evaluated in f32).
struct NormalDistribution {
  Floats value;
  Floats density;
};

HWY_INLINE NormalDistribution normal_distribution(Floats x) {
  const FloatTag floats;
  const Floats one = hn::Set(floats, 1.0F);
  const Floats power = exp_of_negative(hn::Mul(hn::Mul(x, x), hn::Set(floats, -0.5F)));
  const Floats scaled = hn::Mul(hn::Abs(x), hn::Set(floats, 0.212132034F));  // 0.3 / sqrt(2)
  const Floats t = reciprocal(hn::Add(one, scaled));
  Floats polynomial = hn::Set(floats, kErfcCoefficients[8]);
  for (int i = 7; i >= 0; --i) {
    polynomial = hn::MulAdd(polynomial, t, hn::Set(floats, kErfcCoefficients[i]));
  }
  const Floats half = hn::Set(floats, 0.5F);
  const Floats tail = hn::Mul(hn::Mul(half, power), hn::Mul(t, polynomial));
  return {hn::IfNegativeThenElse(x, tail, hn::Sub(one, tail)),
          hn::Mul(power, hn::Set(floats, 0.398942280F))};
}

}  // namespace portolan::simd::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
