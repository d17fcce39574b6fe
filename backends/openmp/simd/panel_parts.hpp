// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#include "backends/openmp/simd/kernels.hpp"
#include "core/weight.hpp"

namespace portolan::simd {

/// Where one panel's parts begin.
struct PanelParts {
  const std::byte* groups = nullptr;  ///< of inputs: their words, of int4 behind their factors
  const float* scales = nullptr;      ///< null if it has none

  /// Where groups are words and nothing else.
  [[nodiscard]] const std::uint32_t* words() const {
    return reinterpret_cast<const std::uint32_t*>(groups);
  }
};

inline PanelParts parts_of(const PanelProduct& arguments) {
  const auto* const panel = static_cast<const std::byte*>(arguments.panel);
  if (arguments.quantization == Quantization::none) return {.groups = panel};
  const QuantizedPanel place(arguments.in_features, arguments.quantization);
  return {.groups = panel + place.factors(0), .scales = reinterpret_cast<const float*>(panel)};
}

/// One group of an int4 panel.
struct Int4Group {
  const std::uint8_t* factors;
  const std::uint32_t* words;

  Int4Group(const PanelParts& panel, std::int64_t group) {
    constexpr QuantizedPanel kPlace(0, Quantization::int4);
    const std::byte* const begin = panel.groups + group * kPlace.group_bytes;
    factors = reinterpret_cast<const std::uint8_t*>(begin);
    words = reinterpret_cast<const std::uint32_t*>(begin + kPlace.factor_bytes);
  }
};

/// How far ahead of its use a panel is asked for: integers take so many instructions a byte that
/// the processor by itself does not look far enough. 5.5 KB is what a core reads in the time of a
/// miss. At 4 and 8 KB lines would lie in the first cache level's sets where those in use lie,
/// which costs 6 % of the rate on Zen 5.
inline constexpr std::int64_t kPrefetchBytes = 5632;
inline constexpr std::int64_t kPrefetchWords = kPrefetchBytes / 4;

}  // namespace portolan::simd
