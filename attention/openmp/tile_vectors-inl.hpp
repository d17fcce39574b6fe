// SPDX-License-Identifier: Apache-2.0
// Vector types that the tile operations share. Included once per target by Highway's mechanism,
// hence the guard that toggles.
#if defined(PORTOLAN_ATTENTION_TILE_VECTORS) == defined(HWY_TARGET_TOGGLE)
#ifdef PORTOLAN_ATTENTION_TILE_VECTORS
#undef PORTOLAN_ATTENTION_TILE_VECTORS
#else
#define PORTOLAN_ATTENTION_TILE_VECTORS
#endif

#include <hwy/highway.h>

#include <cstdint>

#include "core/dtype.hpp"

HWY_BEFORE_NAMESPACE();
namespace portolan::flash::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

constexpr int kBlock = 16;  // rows and columns that are handled together

using Floats = hn::CappedTag<float, kBlock>;
using Words = hn::Rebind<std::uint32_t, Floats>;
using Halves = hn::Rebind<std::uint16_t, Floats>;
[[maybe_unused]] constexpr Floats kFloats;
[[maybe_unused]] constexpr Words kWords;
[[maybe_unused]] constexpr Halves kHalves;
constexpr int kLanes = static_cast<int>(hn::MaxLanes(Floats()));

/// Reads up to a vector of elements of a dtype as f32.
template <class D>
HWY_INLINE hn::Vec<D> load_floats(D, const float* source) {
  return hn::LoadU(D(), source);
}
template <class D>
HWY_INLINE hn::Vec<D> load_floats(D d, const BFloat16* source) {
  const hn::Rebind<std::uint16_t, D> halves;
  const hn::Rebind<std::uint32_t, D> words;
  const auto bits = hn::LoadU(halves, reinterpret_cast<const std::uint16_t*>(source));
  return hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(words, bits)));
}
template <class D>
HWY_INLINE hn::Vec<D> load_floats(D d, const Float16* source) {
  const hn::Rebind<hwy::float16_t, D> halves;
  return hn::PromoteTo(d, hn::LoadU(halves, reinterpret_cast<const hwy::float16_t*>(source)));
}

/// The upper half of each f32, rounded to nearest even, in the upper half of the lane; the lower
/// half is noise. Weights are finite, so no carry can run into infinity.
HWY_INLINE hn::Vec<Words> round_to_bfloat16(hn::Vec<Floats> value) {
  const auto bits = hn::BitCast(kWords, value);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(kWords, 1));
  return hn::Add(bits, hn::Add(odd, hn::Set(kWords, 0x7FFF)));
}

/// bf16 of `low` and, above it, of `high` in each lane.
HWY_INLINE hn::Vec<Words> pair_bfloat16(hn::Vec<Floats> low, hn::Vec<Floats> high) {
  return hn::Or(hn::ShiftRight<16>(round_to_bfloat16(low)),
                hn::And(round_to_bfloat16(high), hn::Set(kWords, 0xFFFF0000U)));
}

/// The lanes whose bits are set, from column `column`, a multiple of the lanes, of a row of bits.
HWY_INLINE hn::Mask<Floats> load_bits(const std::uint8_t* row, int column) {
  const std::uint8_t* bits = row + column / 8;
  if constexpr (kLanes >= 8) return hn::LoadMaskBits(kFloats, bits);
  alignas(8) std::uint8_t shifted[8] = {static_cast<std::uint8_t>(*bits >> (column % 8))};
  return hn::LoadMaskBits(kFloats, shifted);
}

/// 2^x for x <= 9 to 1.7e-7 relative; exactly 1 at 0, exactly 0 at -127 and below, without
/// subnormal results worth the name in between; NaN stays NaN. Minimax polynomial for the fraction,
/// exponent by addition.
HWY_INLINE hn::Vec<Floats> exp2(hn::Vec<Floats> x) {
  const auto shift = hn::Set(kFloats, 12582912.0F);  // 1.5 * 2^23: rounds to integer in low bits
  // Where one operand is NaN, these CPUs' maximum is the second one.
  const auto clamped = hn::Max(hn::Set(kFloats, -127.0F), x);
  const auto shifted = hn::Add(clamped, shift);
  const auto fraction = hn::Sub(clamped, hn::Sub(shifted, shift));
  auto power = hn::Set(kFloats, 0.0013264728477224708F);
  power = hn::MulAdd(power, fraction, hn::Set(kFloats, 0.009671513922512531F));
  power = hn::MulAdd(power, fraction, hn::Set(kFloats, 0.05550733581185341F));
  power = hn::MulAdd(power, fraction, hn::Set(kFloats, 0.24022242426872253F));
  power = hn::MulAdd(power, fraction, hn::Set(kFloats, 0.6931470036506653F));
  power = hn::MulAdd(power, fraction, hn::Set(kFloats, 1.0F));
  const auto exponent = hn::ShiftLeft<23>(hn::BitCast(kWords, shifted));
  return hn::BitCast(kFloats, hn::Add(hn::BitCast(kWords, power), exponent));
}

}  // namespace portolan::flash::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
