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

/// The upper half of each f32, rounded to nearest even, in the upper half of the lane; the lower
/// half is noise. Weights are finite, so no carry can run into infinity.
HWY_INLINE hn::Vec<Words> round_to_bfloat16(hn::Vec<Floats> value) {
  const auto bits = hn::BitCast(kWords, value);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(kWords, 1));
  return hn::Add(bits, hn::Add(odd, hn::Set(kWords, 0x7FFF)));
}

}  // namespace portolan::flash::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
