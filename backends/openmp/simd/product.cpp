// SPDX-License-Identifier: Apache-2.0
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backends/openmp/simd/product.cpp"
#include <hwy/cache_control.h>
#include <hwy/foreach_target.h>  // must come before highway.h
#include <hwy/highway.h>

#include <algorithm>

#include "backends/openmp/simd/convert-inl.hpp"
#include "backends/openmp/simd/integer_panel-inl.hpp"
#include "backends/openmp/simd/kernels.hpp"
#include "backends/openmp/simd/panel_parts.hpp"
#include "backends/portable/dispatch.hpp"
#include "core/weight.hpp"

HWY_BEFORE_NAMESPACE();
namespace portolan::simd::HWY_NAMESPACE {

/// Inputs multiplied at a time: a slice of a panel stays in the second-level cache.
constexpr std::int64_t kDepth = 256;
/// Rows whose sums are kept at a time.
constexpr std::int64_t kTileRows = 96;
/// Rows and vectors of columns held in registers: 24 of 32 or 12 of 16 registers are sums.
constexpr int kRegisterRows = 6;
constexpr int kRegisterColumns = hn::MaxLanes(TileTag()) >= 16 ? 4 : 2;

/// How the words of a panel (core/panels.hpp) give floats; IntegerPanel is another.
struct Float32Panel {
  static constexpr int kInputs = 1;
  static constexpr std::int64_t kGroup = 0;
  static constexpr bool kPrefetch = false;
  template <int kInput>
  static HWY_INLINE TileVector floats(TileWords words) {
    return hn::BitCast(TileTag(), words);
  }
};

struct BFloat16Panel {
  static constexpr int kInputs = 2;
  static constexpr std::int64_t kGroup = 0;
  static constexpr bool kPrefetch = false;
  template <int kInput>
  static HWY_INLINE TileVector floats(TileWords words) {
    if constexpr (kInput == 0) return hn::BitCast(TileTag(), hn::ShiftLeft<16>(words));
    return hn::BitCast(TileTag(), hn::And(words, hn::Set(TileWordTag(), 0xFFFF0000u)));
  }
};

/// Sums of so many rows and as many vectors of columns as registers are for.
template <int kRows>
using Sums = TileVector[kRows][kRegisterColumns];

/// total += x times the inputs kInput and on of words.
template <class Panel, int kInput, int kRows>
HWY_INLINE void multiply_words(const float* x, std::int64_t x_stride, const TileWords* words,
                               Sums<kRows>& total) {
  TileVector weight[kRegisterColumns];
  for (int vector = 0; vector < kRegisterColumns; ++vector) {
    weight[vector] = Panel::template floats<kInput>(words[vector]);
  }
  for (int row = 0; row < kRows; ++row) {
    const TileVector value = hn::Set(TileTag(), x[row * x_stride + kInput]);
    for (int vector = 0; vector < kRegisterColumns; ++vector) {
      total[row][vector] = hn::MulAdd(value, weight[vector], total[row][vector]);
    }
  }
  if constexpr (kInput + 1 < Panel::kInputs) {
    multiply_words<Panel, kInput + 1, kRows>(x, x_stride, words, total);
  }
}

/// Asks for the words kPrefetchBytes further on where these are integers. f32 and bf16 take so few
/// instructions a byte that the processor itself looks ahead far enough, and requests cost Zen 4 up
/// to a seventh of its rate of reading then.
template <class Panel>
HWY_INLINE void prefetch_row(const std::uint32_t* words) {
  if constexpr (!Panel::kPrefetch) return;
  constexpr std::int64_t kLineWords = 16;
  for (std::int64_t i = 0; i < kPanelWidth; i += kLineWords) {
    hwy::Prefetch(words + kPrefetchWords + i);
  }
}

/// total += x[kRows, depth] * words[depth, 64] for one group of columns.
template <class Panel, int kRows>
HWY_INLINE void multiply_inputs(const float* x, std::int64_t x_stride, const std::uint32_t* words,
                                std::int64_t depth, Sums<kRows>& total) {
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(TileTag()));
  for (std::int64_t k = 0; k < depth; k += Panel::kInputs) {
    prefetch_row<Panel>(words);
    TileWords loaded[kRegisterColumns];
    for (int vector = 0; vector < kRegisterColumns; ++vector) {
      loaded[vector] = hn::LoadU(TileWordTag(), words + vector * lanes);
    }
    multiply_words<Panel, 0, kRows>(x + k, x_stride, loaded, total);
    words += kPanelWidth;
  }
}

/// sums[kRows, 64] += x[kRows, depth] * panel[k : k + depth, 64] for one group of columns. Where
/// panels have no groups, sums begin with k = 0, whatever is in memory: zeros written there would
/// have to leave the processor before they are read as longer vectors.
template <class Panel, int kRows>
HWY_INLINE void multiply_tile(const float* x, std::int64_t x_stride, const PanelParts& panel,
                              std::int64_t k, std::int64_t depth, std::int64_t column,
                              float* sums) {
  const TileTag floats;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(floats));
  Sums<kRows> total;
  if constexpr (Panel::kGroup == 0) {
    const std::uint32_t* const words = panel.words() + k / Panel::kInputs * kPanelWidth + column;
    for (int row = 0; row < kRows; ++row) {
      for (int vector = 0; vector < kRegisterColumns; ++vector) {
        float* const sum = sums + row * kPanelWidth + column + vector * lanes;
        total[row][vector] = k == 0 ? hn::Zero(floats) : hn::LoadU(floats, sum);
      }
    }
    multiply_inputs<Panel, kRows>(x, x_stride, words, depth, total);
    for (int row = 0; row < kRows; ++row) {
      for (int vector = 0; vector < kRegisterColumns; ++vector) {
        hn::StoreU(total[row][vector], floats, sums + row * kPanelWidth + column + vector * lanes);
      }
    }
  } else {
    for (std::int64_t input = 0; input < depth; input += Panel::kGroup) {
      const Int4Group group(panel, (k + input) / Panel::kGroup);
      hwy::Prefetch(group.factors + kPrefetchBytes);
      for (int row = 0; row < kRows; ++row) {
        for (int vector = 0; vector < kRegisterColumns; ++vector) {
          total[row][vector] = hn::Zero(floats);
        }
      }
      multiply_inputs<Panel, kRows>(x + input, x_stride, group.words + column, Panel::kGroup,
                                    total);
      const std::uint8_t* const codes = group.factors + column;
      for (int vector = 0; vector < kRegisterColumns; ++vector) {
        const TileVector factor = factors_of(codes + vector * lanes);
        for (int row = 0; row < kRows; ++row) {
          float* const sum = sums + row * kPanelWidth + column + vector * lanes;
          hn::StoreU(hn::MulAdd(total[row][vector], factor, hn::LoadU(floats, sum)), floats, sum);
        }
      }
    }
  }
}

template <class Panel, int kRows>
void multiply_rows(const float* x, std::int64_t x_stride, const PanelParts& panel, std::int64_t k,
                   std::int64_t depth, float* sums) {
  const auto group = static_cast<std::int64_t>(hn::Lanes(TileTag())) * kRegisterColumns;
  for (std::int64_t column = 0; column < kPanelWidth; column += group) {
    multiply_tile<Panel, kRows>(x, x_stride, panel, k, depth, column, sums);
  }
}

template <class Panel>
void multiply_some_rows(std::int64_t rows, const float* x, std::int64_t x_stride,
                        const PanelParts& panel, std::int64_t k, std::int64_t depth, float* sums) {
  static_assert(kRegisterRows == 6);
  switch (rows) {
    case 1:
      return multiply_rows<Panel, 1>(x, x_stride, panel, k, depth, sums);
    case 2:
      return multiply_rows<Panel, 2>(x, x_stride, panel, k, depth, sums);
    case 3:
      return multiply_rows<Panel, 3>(x, x_stride, panel, k, depth, sums);
    case 4:
      return multiply_rows<Panel, 4>(x, x_stride, panel, k, depth, sums);
    case 5:
      return multiply_rows<Panel, 5>(x, x_stride, panel, k, depth, sums);
    default:
      return multiply_rows<Panel, 6>(x, x_stride, panel, k, depth, sums);
  }
}

/// Of one row's sums: out = sums, or out += sums, `scales` times if there are any.
template <class T>
void store_sums(const float* sums, const float* scales, std::int64_t columns, bool accumulate,
                T* out) {
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(FloatTag()));
  std::int64_t i = 0;
  for (; i + lanes <= columns; i += lanes) {
    Floats value = load(sums + i);
    if (scales != nullptr) value = hn::Mul(value, load(scales + i));
    if (accumulate) value = hn::Add(load(out + i), value);
    store(value, out + i);
  }
  if (i < columns) {
    const std::int64_t rest = columns - i;
    Floats value = load_first(sums + i, rest);
    if (scales != nullptr) value = hn::Mul(value, load_first(scales + i, rest));
    if (accumulate) value = hn::Add(load_first(out + i, rest), value);
    store_first(value, out + i, rest);
  }
}

template <class Panel, class X>
void multiply_panel_typed(const PanelProduct& arguments) {
  // Inputs that words and groups round up to; what lies there is zero.
  constexpr std::int64_t kWhole = Panel::kGroup > 0 ? Panel::kGroup : Panel::kInputs;
  static_assert(kDepth % kWhole == 0);
  HWY_ALIGN float sums[kTileRows * kPanelWidth];
  HWY_ALIGN float widened[kTileRows * kDepth];
  const PanelParts panel = parts_of(arguments);
  const auto* const x = static_cast<const X*>(arguments.x);
  for (std::int64_t first = 0; first < arguments.rows; first += kTileRows) {
    const std::int64_t rows = std::min(kTileRows, arguments.rows - first);
    if constexpr (Panel::kGroup > 0) std::fill(sums, sums + rows * kPanelWidth, 0.0F);
    for (std::int64_t k = 0; k < arguments.in_features; k += kDepth) {
      const std::int64_t inputs = std::min(kDepth, arguments.in_features - k);
      const std::int64_t depth = (inputs + kWhole - 1) / kWhole * kWhole;
      for (std::int64_t row = 0; row < rows; ++row) {
        widen(x + (first + row) * arguments.x_stride + k, inputs, depth, widened + row * kDepth);
      }
      for (std::int64_t row = 0; row < rows; row += kRegisterRows) {
        multiply_some_rows<Panel>(std::min<std::int64_t>(kRegisterRows, rows - row),
                                  widened + row * kDepth, kDepth, panel, k, depth,
                                  sums + row * kPanelWidth);
      }
    }
    dispatch_floating(arguments.out_dtype, [&](auto type) {
      using Out = typename decltype(type)::type;
      for (std::int64_t row = 0; row < rows; ++row) {
        store_sums(sums + row * kPanelWidth, panel.scales, arguments.columns, arguments.accumulate,
                   static_cast<Out*>(arguments.out) + (first + row) * arguments.out_stride);
      }
    });
  }
}

bool holds_panel_width() { return kRegisterColumns * hn::Lanes(TileTag()) == kPanelWidth; }

void multiply_panel(const PanelProduct& arguments) {
  dispatch_floating(arguments.x_dtype, [&](auto type) {
    using X = typename decltype(type)::type;
    switch (arguments.quantization) {
      case Quantization::int8:
        return multiply_panel_typed<IntegerPanel<8>, X>(arguments);
      case Quantization::int4:
        return multiply_panel_typed<IntegerPanel<4>, X>(arguments);
      case Quantization::none:
        break;
    }
    if (arguments.panel_dtype == DType::bf16) {
      multiply_panel_typed<BFloat16Panel, X>(arguments);
    } else {
      multiply_panel_typed<Float32Panel, X>(arguments);
    }
  });
}

void store_scaled(const ScaledSums& arguments) {
  dispatch_floating(arguments.out_dtype, [&](auto type) {
    using Out = typename decltype(type)::type;
    for (std::int64_t row = 0; row < arguments.rows; ++row) {
      store_sums(arguments.sums + row * arguments.sums_stride, arguments.scales, arguments.columns,
                 arguments.accumulate,
                 static_cast<Out*>(arguments.out) + row * arguments.out_stride);
    }
  });
}

}  // namespace portolan::simd::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace portolan::simd {

HWY_EXPORT(holds_panel_width);
HWY_EXPORT(multiply_panel);
HWY_EXPORT(store_scaled);

bool holds_panel_width() { return HWY_DYNAMIC_DISPATCH(holds_panel_width)(); }

void multiply_panel(const PanelProduct& arguments) {
  HWY_DYNAMIC_DISPATCH(multiply_panel)(arguments);
}

void store_scaled(const ScaledSums& arguments) { HWY_DYNAMIC_DISPATCH(store_scaled)(arguments); }

}  // namespace portolan::simd
#endif
