// SPDX-License-Identifier: Apache-2.0
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backends/openmp/simd/pack.cpp"
#include <hwy/foreach_target.h>  // must come before highway.h
#include <hwy/highway.h>

#include <algorithm>
#include <cstring>

#include "backends/openmp/simd/convert-inl.hpp"
#include "backends/openmp/simd/kernels.hpp"
#include "backends/openmp/simd/transpose-inl.hpp"
#include "backends/portable/dispatch.hpp"
#include "core/weight.hpp"

HWY_BEFORE_NAMESPACE();
namespace portolan::simd::HWY_NAMESPACE {

/// Input features converted at a time.
template <class T>
inline constexpr std::int64_t kChunk =
    kChunkWords* static_cast<std::int64_t>(sizeof(std::uint32_t) / sizeof(T));

/// A chunk of a panel's rows in the weight's dtype, zero where there is no row or feature.
template <class From, class To>
HWY_INLINE void gather_chunk(const PackPanels& arguments, std::int64_t first_row,
                             std::int64_t first_feature, std::int64_t width, To* chunk) {
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(FloatTag()));
  const std::int64_t features =
      std::clamp(arguments.in_features - first_feature, std::int64_t{0}, width);
  for (std::int64_t row = 0; row < kPanelWidth; ++row) {
    To* const to = chunk + row * kChunk<To>;
    if (first_row + row >= arguments.row_count) {
      std::memset(static_cast<void*>(to), 0, static_cast<std::size_t>(width) * sizeof(To));
      continue;
    }
    const From* const from = static_cast<const From*>(arguments.rows) +
                             (first_row + row) * arguments.row_stride + first_feature;
    if constexpr (std::is_same_v<From, To>) {
      std::memcpy(static_cast<void*>(to), from, static_cast<std::size_t>(features) * sizeof(To));
    } else {
      std::int64_t i = 0;
      for (; i + lanes <= features; i += lanes) store(load(from + i), to + i);
      if (i < features) store_first(load_first(from + i, features - i), to + i, features - i);
    }
    std::memset(static_cast<void*>(to + features), 0,
                static_cast<std::size_t>(width - features) * sizeof(To));
  }
}

template <class From, class To>
void pack_typed(const PackPanels& arguments, std::int64_t begin, std::int64_t end) {
  const std::int64_t padded = padded_in_features(arguments.in_features, arguments.weight_dtype);
  constexpr auto kPerWord = static_cast<std::int64_t>(sizeof(std::uint32_t) / sizeof(To));
  HWY_ALIGN std::uint32_t chunk[kPanelWidth * kChunkWords];
  for (std::int64_t panel = begin; panel < end; ++panel) {
    To* const to = static_cast<To*>(arguments.panels) + panel * kPanelWidth * padded;
    for (std::int64_t feature = 0; feature < padded; feature += kChunk<To>) {
      const std::int64_t width = std::min(kChunk<To>, padded - feature);
      gather_chunk<From>(arguments, panel * kPanelWidth, feature, width,
                         reinterpret_cast<To*>(chunk));
      transpose_chunk(chunk, width / kPerWord,
                      reinterpret_cast<std::uint32_t*>(to + feature * kPanelWidth));
    }
  }
}

void pack_panels(const PackPanels& arguments, std::int64_t begin, std::int64_t end) {
  dispatch_floating(arguments.source_dtype, arguments.weight_dtype, [&](auto from, auto to) {
    pack_typed<typename decltype(from)::type, typename decltype(to)::type>(arguments, begin, end);
  });
}

/// Bits of as many 16-bit elements as a vector of f32 has lanes, one to a 32-bit word.
template <class To, class From>
HWY_INLINE Words wide_bits(const From* from) {
  if constexpr (std::is_same_v<From, To>) {
    return hn::PromoteTo(WordTag(), hn::LoadU(HalfWordTag(), &from->bits));
  } else {
    return hn::PromoteTo(WordTag(), half_words_of(To{}, load(from)));
  }
}

/// One row of f32, or two rows of 16 bits side by side, of kPanelWidth outputs each.
template <class From, class To>
HWY_INLINE void pack_row(const From* first, const From* second, To* out) {
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(FloatTag()));
  for (std::int64_t i = 0; i < kPanelWidth; i += lanes) {
    if constexpr (std::is_same_v<To, float>) {
      store(load(first + i), out + i);
    } else {
      const Words pair =
          hn::Or(wide_bits<To>(first + i), hn::ShiftLeft<16>(wide_bits<To>(second + i)));
      hn::StoreU(pair, WordTag(), reinterpret_cast<std::uint32_t*>(out) + i);
    }
  }
}

template <class From, class To>
void pack_columns_typed(const PackColumns& arguments, std::int64_t begin, std::int64_t end) {
  constexpr auto kPerWord = static_cast<std::int64_t>(sizeof(std::uint32_t) / sizeof(To));
  const std::int64_t padded = padded_in_features(arguments.in_features, arguments.weight_dtype);
  const auto* const source = static_cast<const From*>(arguments.source);
  HWY_ALIGN static constexpr From kZeros[kPanelWidth] = {};
  HWY_ALIGN From edge[2][kPanelWidth];
  for (std::int64_t word = begin; word < end; ++word) {
    for (std::int64_t column = 0; column < arguments.out_features; column += kPanelWidth) {
      const std::int64_t width = std::min(kPanelWidth, arguments.out_features - column);
      const From* rows[2] = {kZeros, kZeros};
      for (std::int64_t r = 0; r < kPerWord; ++r) {
        const std::int64_t feature = word * kPerWord + r;
        if (feature >= arguments.in_features) continue;
        rows[r] = source + feature * arguments.row_stride + column;
        if (width == kPanelWidth) continue;
        std::copy_n(rows[r], width, edge[r]);
        std::fill_n(edge[r] + width, kPanelWidth - width, From{});
        rows[r] = edge[r];
      }
      To* const panel = static_cast<To*>(arguments.panels) + column * padded;
      pack_row(rows[0], rows[1], panel + word * kPerWord * kPanelWidth);
    }
  }
}

void pack_columns(const PackColumns& arguments, std::int64_t begin, std::int64_t end) {
  dispatch_floating(arguments.source_dtype, arguments.weight_dtype, [&](auto from, auto to) {
    pack_columns_typed<typename decltype(from)::type, typename decltype(to)::type>(arguments, begin,
                                                                                   end);
  });
}

}  // namespace portolan::simd::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace portolan::simd {

HWY_EXPORT(pack_panels);
HWY_EXPORT(pack_columns);

void pack_panels(const PackPanels& arguments, std::int64_t begin, std::int64_t end) {
  HWY_DYNAMIC_DISPATCH(pack_panels)(arguments, begin, end);
}

void pack_columns(const PackColumns& arguments, std::int64_t begin, std::int64_t end) {
  HWY_DYNAMIC_DISPATCH(pack_columns)(arguments, begin, end);
}

}  // namespace portolan::simd
#endif
