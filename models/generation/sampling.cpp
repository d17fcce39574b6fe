// SPDX-License-Identifier: Apache-2.0
#include "models/generation/sampling.hpp"

#include <algorithm>
#include <cmath>
#include <set>

#include "core/error.hpp"

namespace portolan {
namespace {

float largest_of(std::span<const float> logits) {
  float largest = -HUGE_VALF;
  bool are_numbers = true;
  for (const float logit : logits) {
    are_numbers = are_numbers && !std::isnan(logit);
    largest = std::max(largest, logit);
  }
  if (!are_numbers || !std::isfinite(largest)) refuse_logits();
  return largest;
}

}  // namespace

RandomKey sampling_key(std::uint64_t seed) { return random_key(seed, "sampling"); }

void refuse_logits() {
  throw Error("the model's logits are not finite numbers: no token can be chosen");
}

void penalize_repetition(std::span<float> logits, std::span<const std::int32_t> seen,
                         double penalty) {
  if (penalty == 1.0) return;
  const std::set<std::int32_t> distinct(seen.begin(), seen.end());
  for (const std::int32_t id : distinct) {
    if (id < 0 || id >= std::ssize(logits)) continue;
    float& logit = logits[static_cast<std::size_t>(id)];
    logit = penalized_logit(logit, penalty);
  }
}

std::vector<TokenProbability> likeliest_tokens(std::span<const float> logits, std::size_t count) {
  const double log_sum = log_sum_exp(logits);
  std::vector<TokenProbability> tokens(logits.size());
  for (std::size_t id = 0; id < logits.size(); ++id) {
    tokens[id] = {static_cast<std::int32_t>(id), std::exp(logits[id] - log_sum)};
  }
  const auto likelier = [](const TokenProbability& a, const TokenProbability& b) {
    return a.probability != b.probability ? a.probability > b.probability : a.id < b.id;
  };
  count = std::min(count, tokens.size());
  std::ranges::partial_sort(tokens, tokens.begin() + static_cast<std::ptrdiff_t>(count), likelier);
  tokens.resize(count);
  return tokens;
}

double log_sum_exp(std::span<const float> logits) {
  const double largest = largest_of(logits);
  double sum = 0.0;
  for (const float logit : logits) sum += std::exp(logit - largest);
  return largest + std::log(sum);
}

double log_probability(std::span<const float> logits, std::int32_t id) {
  return logits[static_cast<std::size_t>(id)] - log_sum_exp(logits);
}

}  // namespace portolan
