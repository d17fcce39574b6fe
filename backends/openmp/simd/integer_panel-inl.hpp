// SPDX-License-Identifier: Apache-2.0
// Vectors of f32 from quantized panels. Included once for each instruction set, hence the guard of
// Highway's instead of `#pragma once`.
#if defined(PORTOLAN_BACKENDS_OPENMP_SIMD_INTEGER_PANEL_INL_HPP) == defined(HWY_TARGET_TOGGLE)
#ifdef PORTOLAN_BACKENDS_OPENMP_SIMD_INTEGER_PANEL_INL_HPP
#undef PORTOLAN_BACKENDS_OPENMP_SIMD_INTEGER_PANEL_INL_HPP
#else
#define PORTOLAN_BACKENDS_OPENMP_SIMD_INTEGER_PANEL_INL_HPP
#endif

#include <hwy/highway.h>

#include <cstdint>

#include "core/quantization.hpp"

HWY_BEFORE_NAMESPACE();
namespace portolan::simd::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

/// At most 16 lanes: a panel's 64 columns are whole vectors then, on any machine.
using TileTag = hn::CappedTag<float, 16>;
using TileVector = hn::Vec<TileTag>;
using TileWordTag = hn::RebindToUnsigned<TileTag>;
using TileWords = hn::Vec<TileWordTag>;

/// How the words of a quantized panel (core/panels.hpp) give floats, which still lack the output's
/// scale and, in groups of kGroup inputs, the group's factor.
template <int kBits>
struct IntegerPanel {
  static constexpr int kInputs = 32 / kBits;
  static constexpr std::int64_t kGroup = kBits == 4 ? kQuantizedGroup : 0;
  static constexpr bool kPrefetch = true;
  template <int kInput>
  static HWY_INLINE TileVector floats(TileWords words) {
#if HWY_TARGET <= HWY_AVX3 && HWY_ARCH_X86
    if constexpr (kBits == 4) {
      // A look-up instead of a shift and a conversion. It ignores all but the lower four bits of
      // its index, which IndicesFromVec would want cleared.
      HWY_ALIGN static constexpr float kValues[16] = {0.0F,  1.0F,  2.0F,  3.0F,  4.0F,  5.0F,
                                                      6.0F,  7.0F,  -8.0F, -7.0F, -6.0F, -5.0F,
                                                      -4.0F, -3.0F, -2.0F, -1.0F};
      const hn::Indices512<float> index{hn::ShiftRight<kBits * kInput>(words).raw};
      return hn::TableLookupLanes(hn::Load(TileTag(), kValues), index);
    }
#endif
    const hn::RebindToSigned<TileTag> integers;
    const auto first = hn::ShiftLeft<32 - kBits*(kInput + 1)>(words);
    return hn::ConvertTo(TileTag(), hn::ShiftRight<32 - kBits>(hn::BitCast(integers, first)));
  }
};

/// int4_factor of one vector of codes.
HWY_INLINE TileVector factors_of(const std::uint8_t* codes) {
  const TileWordTag words;
  const TileWords wide =
      hn::PromoteTo(words, hn::LoadU(hn::Rebind<std::uint8_t, TileTag>(), codes));
  return hn::BitCast(
      TileTag(), hn::ShiftLeft<kInt4FactorShift>(hn::Add(wide, hn::Set(words, kInt4FactorBias))));
}

}  // namespace portolan::simd::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
