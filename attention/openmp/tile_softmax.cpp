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

template <bool kMasked, bool kDropout, bool kPair>
HWY_INLINE void soften_row(const SoftmaxTile& tile, int row) {
  const auto scale = hn::Set(kFloats, tile.scale);
  const auto nothing = hn::Set(kFloats, -std::numeric_limits<float>::infinity());
  float* HWY_RESTRICT scores = tile.scores + row * tile.stride;

  auto largest = nothing;
  if constexpr (kMasked) {
    const std::uint8_t* seen = tile.seen + row * (kKeyTile / 8);
    for (int column = 0; column < tile.columns; column += kLanes) {
      const auto score =
          hn::IfThenElse(load_bits(seen, column), hn::Load(kFloats, scores + column), nothing);
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
  const auto keep = [&](hn::Vec<Floats> weight, int column) HWY_ATTR {
    if constexpr (!kDropout) return weight;
    return hn::IfThenElseZero(load_bits(tile.kept + row * (kKeyTile / 8), column), weight);
  };
  constexpr int kParts = kSumLanes / kLanes;
  hn::Vec<Floats> sums[kParts];
  for (int part = 0; part < kParts; ++part) {
    sums[part] = hn::Load(kFloats, tile.sums + row * kSumLanes + part * kLanes);
  }
  if constexpr (kPair) {
    auto* HWY_RESTRICT words =
        static_cast<std::uint32_t*>(tile.pair_weights) + row * (tile.stride / 2);
    int begin = 0;
    for (; begin + 2 * kPairDistance <= tile.columns; begin += 2 * kPairDistance) {
      for (int part = 0; part < kParts; ++part) {
        const int left = begin + part * kLanes;
        const int right = left + kPairDistance;
        const auto low = weight_at(left);
        const auto high = weight_at(right);
        sums[part] = hn::Add(sums[part], hn::Add(low, high));
        hn::Store(pair_bfloat16(keep(low, left), keep(high, right)), kWords,
                  words + begin / 2 + part * kLanes);
      }
    }
    if (begin < tile.columns) {
      for (int part = 0; part < kParts; ++part) {
        const int left = begin + part * kLanes;
        const auto low = weight_at(left);
        sums[part] = hn::Add(sums[part], low);
        hn::Store(hn::ShiftRight<16>(round_to_bfloat16(keep(low, left))), kWords,
                  words + begin / 2 + part * kLanes);
      }
    }
  } else {
    for (int begin = 0; begin < tile.columns; begin += kSumLanes) {
      for (int part = 0; part < kParts; ++part) {
        const int column = begin + part * kLanes;
        const auto weight = weight_at(column);
        sums[part] = hn::Add(sums[part], weight);
        hn::Store(keep(weight, column), kFloats, scores + column);
      }
    }
  }
  for (int part = 0; part < kParts; ++part) {
    hn::Store(sums[part], kFloats, tile.sums + row * kSumLanes + part * kLanes);
  }
}

template <bool kMasked, bool kDropout>
void soften_rows(const SoftmaxTile& tile, OperandFormat format) {
  for (int row = 0; row < tile.rows; ++row) {
    if (format == OperandFormat::pair) {
      soften_row<kMasked, kDropout, true>(tile, row);
    } else {
      soften_row<kMasked, kDropout, false>(tile, row);
    }
  }
}

void soften_tile(const SoftmaxTile& tile, OperandFormat format) {
  if (tile.kept != nullptr) {
    return tile.seen != nullptr ? soften_rows<true, true>(tile, format)
                                : soften_rows<false, true>(tile, format);
  }
  return tile.seen != nullptr ? soften_rows<true, false>(tile, format)
                              : soften_rows<false, false>(tile, format);
}

void add_lanes(const float* sums, int rows, float* totals) {
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

HWY_EXPORT(soften_tile);
HWY_EXPORT(add_lanes);

void softmax_tile(const SoftmaxTile& tile, OperandFormat format) {
  HWY_DYNAMIC_DISPATCH(soften_tile)(tile, format);
}

void add_lanes(const float* sums, int rows, float* totals) {
  HWY_DYNAMIC_DISPATCH(add_lanes)(sums, rows, totals);
}

}  // namespace portolan::flash
#endif  // HWY_ONCE
