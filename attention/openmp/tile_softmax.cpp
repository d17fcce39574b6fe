// SPDX-License-Identifier: Apache-2.0
#include <limits>

#include "attention/openmp/tile_operations.hpp"

// Products need AVX2 at least, so older targets would never run. The fallback cannot be left out
// and has to be the emulated one, which has all operations; unsupported_reason() keeps it from
// running.
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4 | HWY_AVX3_DL)
#define HWY_BROKEN_EMU128 0
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "attention/openmp/tile_softmax.cpp"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
#include <hwy/highway.h>

#include "attention/openmp/tile_vectors-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace portolan::flash::HWY_NAMESPACE {

/// 2^x for x <= 9 to 1.7e-7 relative; exactly 1 at 0, exactly 0 at -127 and below, without
/// subnormal results worth the name in between. Minimax polynomial for the fraction, exponent by
/// addition.
HWY_INLINE hn::Vec<Floats> exp2(hn::Vec<Floats> x) {
  const auto shift = hn::Set(kFloats, 12582912.0F);  // 1.5 * 2^23: rounds to integer in low bits
  const auto clamped = hn::Max(x, hn::Set(kFloats, -127.0F));
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

/// Raises the reference exponent of a row to `maximum`.
HWY_NOINLINE void raise_reference(const SoftmaxTile& tile, int row, float maximum) {
  const float before = tile.maximum[row];
  tile.maximum[row] = maximum;
  if (before == std::numeric_limits<float>::lowest()) return;  // the state is still zero
  const auto factor = exp2(hn::Set(kFloats, before - maximum));
  float* sums = tile.sums + row * kSumLanes;
  for (int lane = 0; lane < kSumLanes; lane += kLanes) {
    hn::Store(hn::Mul(hn::Load(kFloats, sums + lane), factor), kFloats, sums + lane);
  }
  float* out = tile.out + row * tile.padded_dim;
  for (int column = 0; column < tile.padded_dim; column += kLanes) {
    hn::Store(hn::Mul(hn::Load(kFloats, out + column), factor), kFloats, out + column);
  }
}

template <bool kMasked, bool kPair>
HWY_INLINE void soften_row(const SoftmaxTile& tile, int row) {
  const auto scale = hn::Set(kFloats, tile.scale);
  const auto nothing = hn::Set(kFloats, -std::numeric_limits<float>::infinity());
  float* HWY_RESTRICT scores = tile.scores + row * tile.stride;

  auto largest = nothing;
  if constexpr (kMasked) {
    const int first = tile.first[row];
    const int length = tile.end[row] > first ? tile.end[row] - first : 0;
    const auto begin = hn::Set(kWords, static_cast<std::uint32_t>(first));
    const auto count = hn::Set(kWords, static_cast<std::uint32_t>(length));
    // Columns before `first` wrap round to large numbers.
    auto index = hn::Sub(hn::Iota(kWords, 0), begin);
    const auto step = hn::Set(kWords, static_cast<std::uint32_t>(kLanes));
    for (int column = 0; column < tile.columns; column += kLanes, index = hn::Add(index, step)) {
      const auto seen = hn::RebindMask(kFloats, hn::Lt(index, count));
      const auto score = hn::IfThenElse(seen, hn::Load(kFloats, scores + column), nothing);
      hn::Store(score, kFloats, scores + column);
      largest = hn::Max(largest, score);
    }
  } else {
    for (int column = 0; column < tile.columns; column += kLanes) {
      largest = hn::Max(largest, hn::Load(kFloats, scores + column));
    }
  }

  constexpr float kHeadroom = 8.0F;  // weights stay below 2^8: no loss in f32, nor in bf16
  const auto limit = hn::Set(kFloats, tile.maximum[row] + kHeadroom);
  const auto scaled = hn::Mul(largest, scale);
  if (HWY_UNLIKELY(!hn::AllFalse(kFloats, hn::Gt(scaled, limit)))) {
    raise_reference(tile, row, hn::GetLane(hn::MaxOfLanes(kFloats, scaled)));
  }

  const auto minus_reference = hn::Set(kFloats, -tile.maximum[row]);
  const auto weight_at = [&](int column) HWY_ATTR {
    return exp2(hn::MulAdd(hn::Load(kFloats, scores + column), scale, minus_reference));
  };
  constexpr int kParts = kSumLanes / kLanes;
  hn::Vec<Floats> sums[kParts];
  for (int part = 0; part < kParts; ++part) {
    sums[part] = hn::Load(kFloats, tile.sums + row * kSumLanes + part * kLanes);
  }
  if constexpr (kPair) {
    auto* HWY_RESTRICT words =
        static_cast<std::uint32_t*>(tile.pair_weights) + row * (tile.stride / 2);
    const auto upper_half = hn::Set(kWords, 0xFFFF0000U);
    int begin = 0;
    for (; begin + 2 * kPairDistance <= tile.columns; begin += 2 * kPairDistance) {
      for (int part = 0; part < kParts; ++part) {
        const auto low = weight_at(begin + part * kLanes);
        const auto high = weight_at(begin + kPairDistance + part * kLanes);
        sums[part] = hn::Add(sums[part], hn::Add(low, high));
        const auto pair = hn::Or(hn::ShiftRight<16>(round_to_bfloat16(low)),
                                 hn::And(round_to_bfloat16(high), upper_half));
        hn::Store(pair, kWords, words + begin / 2 + part * kLanes);
      }
    }
    if (begin < tile.columns) {
      for (int part = 0; part < kParts; ++part) {
        const auto low = weight_at(begin + part * kLanes);
        sums[part] = hn::Add(sums[part], low);
        hn::Store(hn::ShiftRight<16>(round_to_bfloat16(low)), kWords,
                  words + begin / 2 + part * kLanes);
      }
    }
  } else {
    for (int begin = 0; begin < tile.columns; begin += kSumLanes) {
      for (int part = 0; part < kParts; ++part) {
        const auto weight = weight_at(begin + part * kLanes);
        sums[part] = hn::Add(sums[part], weight);
        hn::Store(weight, kFloats, scores + begin + part * kLanes);
      }
    }
  }
  for (int part = 0; part < kParts; ++part) {
    hn::Store(sums[part], kFloats, tile.sums + row * kSumLanes + part * kLanes);
  }
}

template <bool kMasked, bool kPair>
void soften_rows(const SoftmaxTile& tile) {
  for (int row = 0; row < tile.rows; ++row) soften_row<kMasked, kPair>(tile, row);
}

void SoftenTile(const SoftmaxTile& tile, OperandFormat format) {
  const bool masked = tile.first != nullptr;
  if (format == OperandFormat::pair) {
    return masked ? soften_rows<true, true>(tile) : soften_rows<false, true>(tile);
  }
  return masked ? soften_rows<true, false>(tile) : soften_rows<false, false>(tile);
}

void AddLanes(const float* sums, int rows, float* totals) {
  for (int row = 0; row < rows; ++row, sums += kSumLanes) {
    auto total = hn::Load(kFloats, sums);
    for (int lane = kLanes; lane < kSumLanes; lane += kLanes) {
      total = hn::Add(total, hn::Load(kFloats, sums + lane));
    }
    totals[row] = hn::GetLane(hn::SumOfLanes(kFloats, total));
  }
}

}  // namespace portolan::flash::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace portolan::flash {

HWY_EXPORT(SoftenTile);
HWY_EXPORT(AddLanes);

void softmax_tile(const SoftmaxTile& tile, OperandFormat format) {
  HWY_DYNAMIC_DISPATCH(SoftenTile)(tile, format);
}

void add_lanes(const float* sums, int rows, float* totals) {
  HWY_DYNAMIC_DISPATCH(AddLanes)(sums, rows, totals);
}

}  // namespace portolan::flash
#endif  // HWY_ONCE
