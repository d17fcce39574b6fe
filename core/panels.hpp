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
///   int4       [ceil(out/64)] of f32 s[64], then [in'/32] of u8 g[64], u4 [4][64][8]
///
/// Padding is zero. One panel is contiguous, so products of many rows and of one row stream it
/// once, from its first byte to its last: factors apart from their integers would be a second
/// stream, which costs a CPU up to a fifth of its rate of reading. core/quantization.hpp says what
/// s and g are; with them, a weight takes 8 + 32/in bits in int8, 4.25 + 32/in in int4.
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

/// Where the parts of a quantized panel lie, in bytes from its start. The scales come first, then
/// groups of kQuantizedGroup inputs.
struct QuantizedPanel {
  std::int64_t factor_bytes = 0;  ///< of a group, in front of its words
  std::int64_t group_bytes = 0;   ///< from one group to the next
  std::int64_t bytes = 0;         ///< of the panel

  constexpr QuantizedPanel(std::int64_t in_features, Quantization quantization) {
    const std::int64_t words = kQuantizedGroup / quantized_per_word(quantization);
    factor_bytes = quantization == Quantization::int4 ? kPanelWidth : 0;
    group_bytes = factor_bytes + words * kRowBytes;
    bytes = kRowBytes + quantized_groups(in_features) * group_bytes;
  }

  /// Factors of a group's 64 outputs, of int4.
  [[nodiscard]] PORTOLAN_HOST_DEVICE constexpr std::int64_t factors(std::int64_t group) const {
    return kRowBytes + group * group_bytes;
  }
  /// Words of a group, [kQuantizedGroup / inputs of a word][64].
  [[nodiscard]] PORTOLAN_HOST_DEVICE constexpr std::int64_t words(std::int64_t group) const {
    return factors(group) + factor_bytes;
  }

 private:
  static constexpr std::int64_t kRowBytes = kPanelWidth * 4;  ///< of one word or scale per output
};

}  // namespace portolan
