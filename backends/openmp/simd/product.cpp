// SPDX-License-Identifier: Apache-2.0
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backends/openmp/simd/product.cpp"
#include <hwy/foreach_target.h>  // must come before highway.h
#include <hwy/highway.h>

#include <algorithm>

#include "backends/openmp/simd/convert-inl.hpp"
#include "backends/openmp/simd/kernels.hpp"
#include "backends/portable/dispatch.hpp"
#include "core/weight.hpp"

HWY_BEFORE_NAMESPACE();
namespace portolan::simd::HWY_NAMESPACE {

/// At most 16 lanes: a panel's 64 columns are whole vectors then, on any machine.
using TileTag = hn::CappedTag<float, 16>;
using TileVector = hn::Vec<TileTag>;

/// Inputs multiplied at a time: a slice of a panel stays in the second-level cache.
constexpr std::int64_t kDepth = 256;
/// Rows whose sums are kept at a time.
constexpr std::int64_t kTileRows = 96;
/// Rows and vectors of columns held in registers: 24 of 32 or 12 of 16 registers are sums.
constexpr int kRegisterRows = 6;
constexpr int kRegisterColumns = hn::MaxLanes(TileTag()) >= 16 ? 4 : 2;

/// Two neighbouring inputs of a 16-bit panel, or one of an f32 panel, for one vector of outputs.
template <class W>
struct WeightLoad;

template <>
struct WeightLoad<float> {
  static constexpr std::int64_t kInputs = 1;
  static HWY_INLINE TileVector load(const float* panel, int /*input*/) {
    return hn::LoadU(TileTag(), panel);
  }
};

template <>
struct WeightLoad<BFloat16> {
  static constexpr std::int64_t kInputs = 2;
  static HWY_INLINE TileVector load(const BFloat16* panel, int input) {
    const hn::RebindToUnsigned<TileTag> words;
    const auto pair = hn::LoadU(words, reinterpret_cast<const std::uint32_t*>(panel));
    return hn::BitCast(TileTag(), input == 0 ? hn::ShiftLeft<16>(pair)
                                             : hn::And(pair, hn::Set(words, 0xFFFF0000u)));
  }
};

/// sums[kRows, 64] += x[kRows, depth] * panel[depth, 64] for one group of columns.
template <int kRows, class W>
HWY_INLINE void multiply_tile(const float* x, std::int64_t x_stride, const W* panel,
                              std::int64_t depth, std::int64_t column, float* sums) {
  using Load = WeightLoad<W>;
  const TileTag floats;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(floats));
  TileVector total[kRows][kRegisterColumns];
  for (int row = 0; row < kRows; ++row) {
    for (int vector = 0; vector < kRegisterColumns; ++vector) {
      total[row][vector] = hn::LoadU(floats, sums + row * kPanelWidth + column + vector * lanes);
    }
  }
  for (std::int64_t k = 0; k < depth; k += Load::kInputs) {
    const W* const weights = panel + k * kPanelWidth + column * Load::kInputs;
    for (int input = 0; input < Load::kInputs; ++input) {
      TileVector weight[kRegisterColumns];
      for (int vector = 0; vector < kRegisterColumns; ++vector) {
        weight[vector] = Load::load(weights + vector * lanes * Load::kInputs, input);
      }
      for (int row = 0; row < kRows; ++row) {
        const TileVector value = hn::Set(floats, x[row * x_stride + k + input]);
        for (int vector = 0; vector < kRegisterColumns; ++vector) {
          total[row][vector] = hn::MulAdd(value, weight[vector], total[row][vector]);
        }
      }
    }
  }
  for (int row = 0; row < kRows; ++row) {
    for (int vector = 0; vector < kRegisterColumns; ++vector) {
      hn::StoreU(total[row][vector], floats, sums + row * kPanelWidth + column + vector * lanes);
    }
  }
}

template <int kRows, class W>
void multiply_rows(const float* x, std::int64_t x_stride, const W* panel, std::int64_t depth,
                   float* sums) {
  const auto group = static_cast<std::int64_t>(hn::Lanes(TileTag())) * kRegisterColumns;
  for (std::int64_t column = 0; column < kPanelWidth; column += group) {
    multiply_tile<kRows>(x, x_stride, panel, depth, column, sums);
  }
}

template <class W>
void multiply_some_rows(std::int64_t rows, const float* x, std::int64_t x_stride, const W* panel,
                        std::int64_t depth, float* sums) {
  static_assert(kRegisterRows == 6);
  switch (rows) {
    case 1:
      return multiply_rows<1>(x, x_stride, panel, depth, sums);
    case 2:
      return multiply_rows<2>(x, x_stride, panel, depth, sums);
    case 3:
      return multiply_rows<3>(x, x_stride, panel, depth, sums);
    case 4:
      return multiply_rows<4>(x, x_stride, panel, depth, sums);
    case 5:
      return multiply_rows<5>(x, x_stride, panel, depth, sums);
    default:
      return multiply_rows<6>(x, x_stride, panel, depth, sums);
  }
}

/// One row of x in f32, zero beyond `count`.
template <class T>
HWY_INLINE void widen(const T* from, std::int64_t count, std::int64_t padded, float* to) {
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(FloatTag()));
  std::int64_t i = 0;
  for (; i + lanes <= count; i += lanes) store(load(from + i), to + i);
  for (; i < count; ++i) to[i] = to_float(from[i]);
  for (; i < padded; ++i) to[i] = 0.0F;
}

template <class T>
void store_sums(const PanelProduct& arguments, std::int64_t row, const float* sums) {
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(FloatTag()));
  T* const to = static_cast<T*>(arguments.out) + row * arguments.out_stride;
  std::int64_t i = 0;
  for (; i + lanes <= arguments.columns; i += lanes) {
    Floats value = load(sums + i);
    if (arguments.accumulate) value = hn::Add(load(to + i), value);
    store(value, to + i);
  }
  if (i < arguments.columns) {
    const std::int64_t rest = arguments.columns - i;
    Floats value = load_first(sums + i, rest);
    if (arguments.accumulate) value = hn::Add(load_first(to + i, rest), value);
    store_first(value, to + i, rest);
  }
}

template <class X, class W>
void multiply_panel_typed(const PanelProduct& arguments) {
  HWY_ALIGN float sums[kTileRows * kPanelWidth];
  HWY_ALIGN float widened[kTileRows * kDepth];
  const auto* const panel = static_cast<const W*>(arguments.panel);
  const auto* const x = static_cast<const X*>(arguments.x);
  for (std::int64_t first = 0; first < arguments.rows; first += kTileRows) {
    const std::int64_t rows = std::min(kTileRows, arguments.rows - first);
    std::fill(sums, sums + rows * kPanelWidth, 0.0F);
    for (std::int64_t k = 0; k < arguments.in_features; k += kDepth) {
      const std::int64_t depth = std::min(kDepth, arguments.in_features - k);
      for (std::int64_t row = 0; row < rows; ++row) {
        widen(x + (first + row) * arguments.x_stride + k, depth, (depth + 1) / 2 * 2,
              widened + row * kDepth);
      }
      for (std::int64_t row = 0; row < rows; row += kRegisterRows) {
        multiply_some_rows(std::min<std::int64_t>(kRegisterRows, rows - row),
                           widened + row * kDepth, kDepth, panel + k * kPanelWidth, depth,
                           sums + row * kPanelWidth);
      }
    }
    dispatch_floating(arguments.out_dtype, [&](auto type) {
      for (std::int64_t row = 0; row < rows; ++row) {
        store_sums<typename decltype(type)::type>(arguments, first + row, sums + row * kPanelWidth);
      }
    });
  }
}

void multiply_panel(const PanelProduct& arguments) {
  dispatch_floating(arguments.x_dtype, [&](auto type) {
    using X = typename decltype(type)::type;
    if (arguments.panel_dtype == DType::bf16) {
      multiply_panel_typed<X, BFloat16>(arguments);
    } else {
      multiply_panel_typed<X, float>(arguments);
    }
  });
}

}  // namespace portolan::simd::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace portolan::simd {

HWY_EXPORT(multiply_panel);

void multiply_panel(const PanelProduct& arguments) {
  HWY_DYNAMIC_DISPATCH(multiply_panel)(arguments);
}

}  // namespace portolan::simd
#endif
