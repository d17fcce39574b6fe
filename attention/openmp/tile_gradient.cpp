// SPDX-License-Identifier: Apache-2.0
#include "attention/openmp/tile_gradient.hpp"

#include <numbers>

// As in tile_packing.cpp.
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4 | HWY_AVX3_DL)
#define HWY_BROKEN_EMU128 0
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "attention/openmp/tile_gradient.cpp"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
#include <hwy/highway.h>

#include "attention/openmp/tile_vectors-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace portolan::flash::HWY_NAMESPACE {

struct WeightAndSlope {
  hn::Vec<Floats> weight;
  hn::Vec<Floats> slope;
};

template <bool kMasked, bool kDropout>
class GradientRows {
 public:
  HWY_INLINE explicit GradientRows(const GradientTile& tile)
      : tile_(tile),
        exponent_scale_(hn::Set(kFloats, tile.scale * std::numbers::log2e_v<float>)),
        scale_(hn::Set(kFloats, tile.scale)) {}

  HWY_INLINE WeightAndSlope at(int row, int column) const {
    const int offset = row * tile_.stride + column;
    auto weight = exp2(hn::MulAdd(hn::Load(kFloats, tile_.scores + offset), exponent_scale_,
                                  hn::Load(kFloats, tile_.log_sum_exp + column)));
    auto slope = hn::Load(kFloats, tile_.weight_slopes + offset);
    const int bits = row * tile_.stride / 8;
    auto kept_weight = weight;
    if constexpr (kDropout) {
      const auto kept = load_bits(tile_.kept + bits, column);
      const auto factor = hn::Set(kFloats, tile_.kept_factor);
      kept_weight = hn::IfThenElseZero(kept, hn::Mul(weight, factor));
      slope = hn::IfThenElseZero(kept, hn::Mul(slope, factor));
    }
    slope = hn::Mul(weight, hn::MulAdd(slope, scale_, hn::Load(kFloats, tile_.delta + column)));
    if constexpr (kMasked) {
      const auto seen = load_bits(tile_.seen + bits, column);
      kept_weight = hn::IfThenElseZero(seen, kept_weight);
      slope = hn::IfThenElseZero(seen, slope);
    }
    return {kept_weight, slope};
  }

 private:
  const GradientTile& tile_;
  hn::Vec<Floats> exponent_scale_;
  hn::Vec<Floats> scale_;
};

template <bool kMasked, bool kDropout>
void single_rows(const GradientTile& tile) {
  const GradientRows<kMasked, kDropout> rows(tile);
  for (int row = 0; row < tile.keys; ++row) {
    for (int column = 0; column < tile.queries; column += kLanes) {
      const WeightAndSlope result = rows.at(row, column);
      hn::Store(result.weight, kFloats, tile.scores + row * tile.stride + column);
      hn::Store(result.slope, kFloats, tile.weight_slopes + row * tile.stride + column);
    }
  }
}

template <bool kMasked, bool kDropout>
void pair_rows(const GradientTile& tile) {
  const GradientRows<kMasked, kDropout> rows(tile);
  auto* weights = static_cast<std::uint32_t*>(tile.pair_weights);
  auto* slopes = static_cast<std::uint32_t*>(tile.pair_slopes);
  auto* packed = static_cast<std::uint32_t*>(tile.packed_slopes);
  const int half = tile.stride / 2;
  for (int begin = 0; begin < tile.keys; begin += 2 * kPairDistance) {
    for (int row = begin; row < begin + kPairDistance; ++row, packed += tile.stride) {
      const int other = row + kPairDistance;
      for (int left = 0; left < tile.queries; left += 2 * kPairDistance) {
        for (int lane = 0; lane < kPairDistance; lane += kLanes) {
          const int column = left + lane;
          const int right = column + kPairDistance;
          const WeightAndSlope a = rows.at(row, column);
          const WeightAndSlope b = rows.at(row, right);
          const WeightAndSlope c = rows.at(other, column);
          const WeightAndSlope d = rows.at(other, right);
          const int word = left / 2 + lane;
          hn::Store(pair_bfloat16(a.weight, b.weight), kWords, weights + row * half + word);
          hn::Store(pair_bfloat16(c.weight, d.weight), kWords, weights + other * half + word);
          hn::Store(pair_bfloat16(a.slope, b.slope), kWords, slopes + row * half + word);
          hn::Store(pair_bfloat16(c.slope, d.slope), kWords, slopes + other * half + word);
          hn::Store(pair_bfloat16(a.slope, c.slope), kWords, packed + column);
          hn::Store(pair_bfloat16(b.slope, d.slope), kWords, packed + right);
        }
      }
    }
  }
}

template <bool kMasked, bool kDropout>
void rows_of_format(const GradientTile& tile, OperandFormat format) {
  if (format == OperandFormat::pair) return pair_rows<kMasked, kDropout>(tile);
  single_rows<kMasked, kDropout>(tile);
}

void DifferentiateTile(const GradientTile& tile, OperandFormat format) {
  if (tile.kept != nullptr) {
    return tile.seen != nullptr ? rows_of_format<true, true>(tile, format)
                                : rows_of_format<false, true>(tile, format);
  }
  return tile.seen != nullptr ? rows_of_format<true, false>(tile, format)
                              : rows_of_format<false, false>(tile, format);
}

}  // namespace portolan::flash::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace portolan::flash {

HWY_EXPORT(DifferentiateTile);

void gradient_tile(const GradientTile& tile, OperandFormat format) {
  HWY_DYNAMIC_DISPATCH(DifferentiateTile)(tile, format);
}

}  // namespace portolan::flash
#endif  // HWY_ONCE
