// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#include "backends/openmp/simd/kernels.hpp"
#include "core/weight.hpp"

namespace portolan::simd {

/// Where one panel's parts begin; what it has not got is null.
struct PanelParts {
  const std::uint32_t* words = nullptr;
  const std::uint8_t* factors = nullptr;
  const float* scales = nullptr;
};

inline PanelParts parts_of(const PanelProduct& arguments) {
  if (arguments.quantization == Quantization::none) {
    return {.words = static_cast<const std::uint32_t*>(arguments.panel)};
  }
  const QuantizedPanel place(arguments.in_features, arguments.quantization);
  const auto* const panel = static_cast<const std::byte*>(arguments.panel);
  return {.words = reinterpret_cast<const std::uint32_t*>(panel + place.words),
          .factors = reinterpret_cast<const std::uint8_t*>(panel + place.factors),
          .scales = reinterpret_cast<const float*>(panel)};
}

/// How many 32-bit words ahead of its use a panel is asked for: integers take so many instructions
/// a byte that the processor by itself does not look far enough. 5.5 KB is what a core reads in the
/// time of a miss. At 4 and 8 KB lines would lie in the first cache level's sets where those in use
/// lie, which costs 6 % of the rate on Zen 5.
inline constexpr std::int64_t kPrefetchWords = 1408;

}  // namespace portolan::simd
