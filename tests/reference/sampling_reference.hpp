// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <vector>

/// The choice of a token in plain f64, by sorting. Shares no code with the engine.
namespace portolan::reference {

struct Sampling {
  double repetition_penalty = 1.0;
  double temperature = 1.0;  ///< above 0
  std::int64_t top_k = 0;    ///< 0: all
  double top_p = 1.0;
  double min_p = 0.0;
};

struct TokenProbability {
  std::int32_t id = 0;
  double probability = 0.0;
};

/// What the filters leave.
struct TokenDistribution {
  std::vector<TokenProbability> tokens;  ///< by rising ids; their probabilities add up to 1
  /// How far the closest token is, in probability, from being on the other side of a filter.
  double margin = 1.0;
};

/// Logits of tokens that occurred, f32 before and after.
[[nodiscard]] std::vector<float> penalized(std::span<const float> logits,
                                           std::span<const std::uint8_t> seen, double penalty);
/// Of logits the largest of which is finite and none NaN.
[[nodiscard]] TokenDistribution token_distribution(std::span<const float> logits,
                                                   const Sampling& sampling);

struct TokenDraw {
  std::int32_t id = 0;
  double margin = 1.0;  ///< from u to the closest end of the token's interval
};
/// The token in whose interval u in [0, 1) lies, the intervals joined by rising ids.
[[nodiscard]] TokenDraw draw(const TokenDistribution& distribution, double u);

}  // namespace portolan::reference
