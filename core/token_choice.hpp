// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <bit>
#include <cstdint>

#include "core/dtype.hpp"
#include "core/random.hpp"

namespace portolan {

/// How a token is chosen from logits. Applied in this order, each to what the one before left.
struct TokenChoice {
  /// Divides positive and multiplies negative logits of tokens that occurred before (Keskar et al.
  /// 2019, arXiv:1909.05858); 1: off.
  double repetition_penalty = 1.0;
  /// Divides the logits; 0: the likeliest token, whatever the filters below say.
  double temperature = 0.0;
  /// Of the likeliest tokens (Fan et al. 2018, arXiv:1805.04833); 0: all.
  std::int64_t top_k = 0;
  /// The fewest likeliest tokens that have this probability together (Holtzman et al. 2020,
  /// arXiv:1904.09751); 1: all.
  double top_p = 1.0;
  /// Tokens at least this likely relative to the likeliest (Nguyen et al. 2024, arXiv:2407.01082);
  /// 0: all.
  double min_p = 0.0;
  /// Of the draws of sequence 0; sequence i draws from stream + i.
  RandomKey key = {};

  /// Throws UsageError that names the option out of range.
  void check() const;
};

// The arithmetic of the choice, in integers wherever sums are formed, so that neither their order
// nor the device changes a bit.

/// The largest vocabulary whose weights a 64-bit sum holds.
inline constexpr std::int64_t kMostChoiceTokens = std::int64_t{1} << 20;
/// Fraction bits of a weight; the likeliest token's is 1.
inline constexpr int kTokenWeightBits = 43;
inline constexpr std::uint64_t kLargestTokenWeight = std::uint64_t{1} << kTokenWeightBits;
/// Octaves below the likeliest from which on weights are 0.
inline constexpr int kTokenWeightOctaves = kTokenWeightBits + 1;
/// Fraction bits of distances in octaves.
inline constexpr int kTokenDistanceBits = 57;

/// The upper half of a product.
[[nodiscard]] PORTOLAN_HOST_DEVICE inline std::uint64_t multiply_high(std::uint64_t a,
                                                                      std::uint64_t b) {
  __extension__ using Wide = unsigned __int128;
  return static_cast<std::uint64_t>((static_cast<Wide>(a) * b) >> 64);
}

/// Divides a positive and multiplies a negative logit (Keskar et al. 2019, arXiv:1909.05858).
[[nodiscard]] PORTOLAN_HOST_DEVICE inline float penalized_logit(float logit, double penalty) {
  return static_cast<float>(logit < 0.0F ? logit * penalty : logit / penalty);
}

/// Integers in the order of the logits: the bits of the magnitude with the sign, so that the two
/// zeros are equal. NaN of either sign comes above infinity: the largest key says whether all are
/// numbers.
[[nodiscard]] PORTOLAN_HOST_DEVICE inline std::int32_t logit_key(float logit) {
  const auto bits = std::bit_cast<std::int32_t>(logit);
  const std::int32_t magnitude = bits & 0x7FFFFFFF;
  const std::int32_t key = bits < 0 ? -magnitude : magnitude;
  return magnitude > 0x7F800000 ? magnitude : key;
}

/// Of the largest key: whether there is a token to choose.
[[nodiscard]] PORTOLAN_HOST_DEVICE inline bool is_finite_key(std::int32_t key) {
  return key > -0x7F800000 && key < 0x7F800000;
}

/// The logit of a finite key.
[[nodiscard]] PORTOLAN_HOST_DEVICE inline float logit_of_key(std::int32_t key) {
  return key < 0 ? -std::bit_cast<float>(-key) : std::bit_cast<float>(key);
}

/// Fixed-point octaves, from an exact difference and one rounded product: nothing that a compiler
/// could contract. `scale` is log2(e) / temperature * 2^kTokenDistanceBits, finite and above 0.
[[nodiscard]] PORTOLAN_HOST_DEVICE inline double token_distance(float logit, float largest,
                                                                double scale) {
  return (static_cast<double>(largest) - static_cast<double>(logit)) * scale;
}

/// 2^-distance, rounded to kTokenWeightBits fraction bits; its error before that is below 2^-44.
[[nodiscard]] PORTOLAN_HOST_DEVICE inline std::uint64_t token_weight(double distance) {
  constexpr double kZero = kTokenWeightOctaves * 0x1p57;
  static_assert(kTokenDistanceBits == 57 && kTokenWeightOctaves < 64);
  if (!(distance < kZero)) return 0;
  const auto fixed = static_cast<std::uint64_t>(static_cast<std::int64_t>(distance));
  const int octaves = static_cast<int>(fixed >> kTokenDistanceBits);
  // f in [0, 1) with 64 fraction bits. (1 - 2^-f) / f by its minimax polynomial of degree 8, whose
  // signs alternate: every partial result is positive.
  const std::uint64_t f = fixed << (64 - kTokenDistanceBits);
  std::uint64_t sum = 0x0000'0140'F3AA'7C4AU;
  sum = 0x0000'155D'E549'41DDU - multiply_high(f, sum);
  sum = 0x0000'FF1B'3319'FE1AU - multiply_high(f, sum);
  sum = 0x000A'17D2'F458'7138U - multiply_high(f, sum);
  sum = 0x0057'61D7'4B3F'265BU - multiply_high(f, sum);
  sum = 0x0276'5566'2C94'2664U - multiply_high(f, sum);
  sum = 0x0E35'846A'C0C5'CC29U - multiply_high(f, sum);
  sum = 0x3D7F'7BFE'FE4C'DD7BU - multiply_high(f, sum);
  sum = 0xB172'17F7'D1C4'08AAU - multiply_high(f, sum);
  const std::uint64_t power = (std::uint64_t{1} << 63) - (multiply_high(f, sum) >> 1);  // of 2^63
  const int shift = 63 - kTokenWeightBits + octaves;
  return (power + (std::uint64_t{1} << (shift - 1))) >> shift;
}

/// A uniform number below `total`, of 53 random bits: the one of that sequence and step.
[[nodiscard]] PORTOLAN_HOST_DEVICE inline std::uint64_t draw_below(std::uint64_t total,
                                                                   RandomKey key,
                                                                   std::int64_t sequence,
                                                                   std::int64_t step) {
  const auto words = random_words({key.seed, key.stream + static_cast<std::uint64_t>(sequence)},
                                  static_cast<std::uint64_t>(step));
  // 21 bits above 32: as the top 53 bits of a fraction.
  const std::uint64_t bits = (std::uint64_t{words[0]} << 21) ^ (words[1] >> 11);
  return multiply_high(bits << 11, total);
}

}  // namespace portolan
