// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace portolan {

/// How a token is chosen from logits. Applied in this order, each to what the one before left.
struct SamplingOptions {
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
  std::uint64_t seed = 0;

  /// Throws UsageError that names the option out of range.
  void check() const;
};

// Logits may be -infinity, which excludes a token. All functions below that read logits throw Error
// if one is not a number, or the largest is not finite: damaged weights, or a dtype that is too
// narrow for the model, leave nothing to choose from.

/// A token that a sampler may choose, and its probability among these.
struct TokenProbability {
  std::int32_t id = 0;
  double probability = 0.0;
};

/// Changes logits as the repetition penalty says; `seen` may name a token several times.
void penalize_repetition(std::span<float> logits, std::span<const std::int32_t> seen,
                         double penalty);

/// The tokens that temperature, top_k, top_p and min_p leave, likeliest first (equals by id).
/// temperature > 0.
[[nodiscard]] std::vector<TokenProbability> token_distribution(std::span<const float> logits,
                                                               const SamplingOptions& options);

/// The likeliest token, the first of equals.
[[nodiscard]] std::int32_t likeliest_token(std::span<const float> logits);

/// log(sum of exp(logits)), in f64.
[[nodiscard]] double log_sum_exp(std::span<const float> logits);
/// log(softmax(logits)) at `id`, in f64.
[[nodiscard]] double log_probability(std::span<const float> logits, std::int32_t id);

/// Chooses the token of step `step` of sequence `sequence`: a pure function of logits, `seen` and
/// the options, the same on every rank. `logits` may be changed.
[[nodiscard]] std::int32_t choose_token(std::span<float> logits, std::span<const std::int32_t> seen,
                                        const SamplingOptions& options, std::int64_t sequence,
                                        std::int64_t step);

}  // namespace portolan
