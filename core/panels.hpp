// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "core/dtype.hpp"
#include "core/quantization.hpp"

/// Where the elements of a weight in panels lie: panels of kPanelWidth output features, each of
/// 32-bit words [words][64] that hold 1, 2, 4 or 8 consecutive inputs of one output:
///
///   f32        [ceil(out/64)][in'][64]        in' = in rounded up to 16
///   bf16, f16  [ceil(out/64)][in'/2][64][2]   in' = in rounded up to 32, in pairs for VNNI
///   int8       [ceil(out/64)] of f32 s[64], then [in'/4][64][4]           in' as for bf16
///   int4       [ceil(out/64)] of f32 s[64], u8 g[in'/32][64], then [in'/8][64][8 of half a byte]
///
/// Padding is zero. One panel is contiguous, so products of many rows and of one row stream it
/// once. core/quantization.hpp says what s and g are; with them, a weight takes 8 + 32/in bits in
/// int8, 4.25 + 32/in in int4.
namespace portolan {

inline constexpr std::int64_t kPanelWidth = 64;

/// Input features after padding to a whole number of packing groups.
[[nodiscard]] constexpr std::int64_t padded_in_features(std::int64_t in_features, DType dtype) {
  const std::int64_t group = dtype == DType::f32 ? 16 : 32;
  return (in_features + group - 1) / group * group;
}

/// Number of panels of kPanelWidth outputs.
[[nodiscard]] constexpr std::int64_t panel_count(std::int64_t out_features) {
  return (out_features + kPanelWidth - 1) / kPanelWidth;
}

/// Elements of a weight in the panel layout, padding included.
[[nodiscard]] constexpr std::int64_t panel_elements(std::int64_t out_features,
                                                    std::int64_t in_features, DType dtype) {
  return panel_count(out_features) * kPanelWidth * padded_in_features(in_features, dtype);
}

/// Groups that share a factor, the last one maybe in part.
[[nodiscard]] constexpr std::int64_t quantized_groups(std::int64_t in_features) {
  return (in_features + kQuantizedGroup - 1) / kQuantizedGroup;
}

/// Where the parts of a quantized panel lie, in bytes from its start. The scales come first.
struct QuantizedPanel {
  std::int64_t factors = 0;  ///< int4
  std::int64_t words = 0;
  std::int64_t bytes = 0;  ///< of the panel

  constexpr QuantizedPanel(std::int64_t in_features, Quantization quantization) {
    constexpr std::int64_t kWordBytes = 4;
    const std::int64_t groups = quantized_groups(in_features);
    factors = kPanelWidth * kWordBytes;
    words = factors + (quantization == Quantization::int4 ? groups * kPanelWidth : 0);
    bytes = words +
            groups * kQuantizedGroup / quantized_per_word(quantization) * kPanelWidth * kWordBytes;
  }
};

}  // namespace portolan
