// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/token_choice.hpp"

/// Logits in host memory as probabilities. -infinity excludes a token. All functions below that
/// read logits throw Error if one is not a number, or the largest is not finite: damaged weights,
/// or a dtype that is too narrow for the model, leave nothing to choose from. Tokens are chosen by
/// ops::choose_tokens.
namespace portolan {

/// Of the draws that a seed gives.
[[nodiscard]] RandomKey sampling_key(std::uint64_t seed);

/// Throws the Error that says so.
[[noreturn]] void refuse_logits();

/// Changes logits as TokenChoice says; `seen` may name a token several times.
void penalize_repetition(std::span<float> logits, std::span<const std::int32_t> seen,
                         double penalty);

struct TokenProbability {
  std::int32_t id = 0;
  double probability = 0.0;
};

/// The `count` likeliest tokens of the softmax, likeliest first (equals by id), or all.
[[nodiscard]] std::vector<TokenProbability> likeliest_tokens(std::span<const float> logits,
                                                             std::size_t count);

/// log(sum of exp(logits)), in f64.
[[nodiscard]] double log_sum_exp(std::span<const float> logits);
/// log(softmax(logits)) at `id`, in f64.
[[nodiscard]] double log_probability(std::span<const float> logits, std::int32_t id);

}  // namespace portolan
