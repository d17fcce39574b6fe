// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <bit>
#include <cstdint>
#include <string_view>

#include "core/dtype.hpp"

namespace portolan {

/// Weights of products as integers, for inference. Activations keep their dtype, sums are in f32.
///
///  - int8: w = s q, q in [-127, 127], one f32 scale s per output (the largest |w| of the output's
///    inputs, over 127).
///  - int4: w = s g q, q in [-7, 7], one f32 scale s per output (its largest |w| over 7) and one
///    8-bit factor g per output and group of kQuantizedGroup inputs: the smallest that int4_factor
///    has which is not below the group's largest |w| over the output's.
///
/// An output with an input that is not finite has s = NaN, and so are its products.
///
/// Both round to nearest, ties to even, so |w - dequantized w| <= step / 2, with the step s or s g;
/// and both are symmetric: a minimum would cost another number per group and another sum per
/// product. Weights of trained models are centred, which leaves it little to win.
///
/// g has five significant bits, which makes a step up to 1/16 (on average 1/32) longer than it has
/// to be, but q and g q then fit bf16's eight bits: products of many rows are made from bf16 or f32
/// panels without a further rounding, and s multiplies their sums.
enum class Quantization : std::uint8_t { none, int8, int4 };

/// "none", "int8", "int4".
[[nodiscard]] std::string_view name_of(Quantization quantization);
/// Inverse of name_of; throws UsageError for an unknown name.
[[nodiscard]] Quantization quantization_from_name(std::string_view name);

/// Inputs that share a factor, and to a multiple of which both forms pad their inputs.
inline constexpr std::int64_t kQuantizedGroup = 32;

/// Largest |q|.
[[nodiscard]] PORTOLAN_HOST_DEVICE constexpr int quantized_limit(Quantization quantization) {
  return quantization == Quantization::int4 ? 7 : 127;
}
/// Consecutive inputs of one output that a 32-bit word holds, the first in its lowest bits, each in
/// two's complement.
[[nodiscard]] PORTOLAN_HOST_DEVICE constexpr std::int64_t quantized_per_word(
    Quantization quantization) {
  return quantization == Quantization::int4 ? 8 : 4;
}

/// Distance between the exponents of a factor's code and of an f32, in the code's place.
inline constexpr std::uint32_t kInt4FactorBias = 112U << 4U;
/// Bits of an f32's significand that a code lacks.
inline constexpr std::uint32_t kInt4FactorShift = 19;

/// (1 + (code mod 16) / 16) 2^(code / 16 - 15): a float of four bits of exponent and four of
/// significand, no sign, no zero (a group of zeros has zero integers).
[[nodiscard]] PORTOLAN_HOST_DEVICE inline float int4_factor(std::uint8_t code) {
  return std::bit_cast<float>((code + kInt4FactorBias) << kInt4FactorShift);
}
/// Of the smallest factor that is not below `ratio` in [0, 1].
[[nodiscard]] PORTOLAN_HOST_DEVICE inline std::uint8_t int4_factor_code(float ratio) {
  const std::uint32_t up = (1U << kInt4FactorShift) - 1U;
  const std::uint32_t bits = (std::bit_cast<std::uint32_t>(ratio) + up) >> kInt4FactorShift;
  return static_cast<std::uint8_t>(bits > kInt4FactorBias ? bits - kInt4FactorBias : 0U);
}

/// value / step to the nearest integer, within the limit. A step of 0 is that of zeros.
[[nodiscard]] PORTOLAN_HOST_DEVICE inline int quantized_value(float value, float step, int limit) {
  if (!(step > 0.0F)) return 0;
  constexpr float kRoundingShift = 12582912.0F;  // 1.5 * 2^23: leaves no bits for a fraction
  const float rounded = value / step + kRoundingShift - kRoundingShift;
  const float bound = static_cast<float>(limit);
  return static_cast<int>(rounded > -bound ? (rounded < bound ? rounded : bound) : -bound);
}

/// The integer of input `index` of a word.
[[nodiscard]] PORTOLAN_HOST_DEVICE inline int quantized_in_word(std::uint32_t word,
                                                                std::int64_t index,
                                                                Quantization quantization) {
  const int bits = quantization == Quantization::int4 ? 4 : 8;
  const int left = 32 - bits * (static_cast<int>(index) + 1);
  return static_cast<std::int32_t>(word << left) >> (32 - bits);
}

}  // namespace portolan
