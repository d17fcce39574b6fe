// SPDX-License-Identifier: Apache-2.0
#include "models/generation/sampling.hpp"

#include <algorithm>
#include <cmath>
#include <set>

#include "core/error.hpp"
#include "core/random.hpp"

namespace portolan {
namespace {

/// Uniform on [0, 1), 53 random bits, for one choice.
double uniform(std::uint64_t seed, std::int64_t sequence, std::int64_t step) {
  const RandomKey key = random_key(seed, "sampling");
  const auto words = random_words({key.seed, key.stream + static_cast<std::uint64_t>(sequence)},
                                  static_cast<std::uint64_t>(step));
  const std::uint64_t bits = (std::uint64_t{words[0]} << 21) ^ (words[1] >> 11);
  return static_cast<double>(bits & ((std::uint64_t{1} << 53) - 1)) * 0x1p-53;
}

/// The place of the largest, the first of equals.
std::size_t find_largest(std::span<const float> logits) {
  std::size_t largest = 0;
  bool are_numbers = true;
  for (std::size_t id = 0; id < logits.size(); ++id) {
    are_numbers = are_numbers && !std::isnan(logits[id]);
    if (logits[id] > logits[largest]) largest = id;
  }
  if (logits.empty() || !are_numbers || !std::isfinite(logits[largest])) {
    throw Error("the model's logits are not finite numbers: no token can be chosen");
  }
  return largest;
}

/// Keeps the first `count` and makes their probabilities add up to 1 again.
void keep_first(std::vector<TokenProbability>& tokens, std::size_t count) {
  tokens.resize(std::max<std::size_t>(1, std::min(count, tokens.size())));
  double sum = 0.0;
  for (const TokenProbability& token : tokens) sum += token.probability;
  for (TokenProbability& token : tokens) token.probability /= sum;
}

}  // namespace

void SamplingOptions::check() const {
  require(std::isfinite(temperature) && temperature >= 0.0,
          "the temperature must be 0 or more, found {}", temperature);
  require(top_k >= 0, "top-k must be 0 or more, found {}", top_k);
  require(top_p > 0.0 && top_p <= 1.0, "top-p must be above 0 and at most 1, found {}", top_p);
  require(min_p >= 0.0 && min_p <= 1.0, "min-p must lie between 0 and 1, found {}", min_p);
  require(std::isfinite(repetition_penalty) && repetition_penalty > 0.0,
          "the repetition penalty must be above 0, found {}", repetition_penalty);
}

void penalize_repetition(std::span<float> logits, std::span<const std::int32_t> seen,
                         double penalty) {
  if (penalty == 1.0) return;
  const std::set<std::int32_t> distinct(seen.begin(), seen.end());
  for (const std::int32_t id : distinct) {
    if (id < 0 || id >= std::ssize(logits)) continue;
    float& logit = logits[static_cast<std::size_t>(id)];
    logit = static_cast<float>(logit < 0.0F ? logit * penalty : logit / penalty);
  }
}

std::vector<TokenProbability> token_distribution(std::span<const float> logits,
                                                 const SamplingOptions& options) {
  const double largest = logits[find_largest(logits)];
  std::vector<TokenProbability> tokens(logits.size());
  double sum = 0.0;
  for (std::size_t id = 0; id < logits.size(); ++id) {
    const double weight = std::exp((logits[id] - largest) / options.temperature);
    tokens[id] = {static_cast<std::int32_t>(id), weight};
    sum += weight;
  }
  for (TokenProbability& token : tokens) token.probability /= sum;

  const auto likelier = [](const TokenProbability& a, const TokenProbability& b) {
    return a.probability != b.probability ? a.probability > b.probability : a.id < b.id;
  };
  // Sorting a whole vocabulary takes longer than choosing its best.
  const bool cut = options.top_k > 0 && options.top_k < std::ssize(tokens);
  if (cut) {
    std::ranges::nth_element(tokens, tokens.begin() + (options.top_k - 1), likelier);
    keep_first(tokens, static_cast<std::size_t>(options.top_k));
  }
  std::ranges::sort(tokens, likelier);

  if (options.top_p < 1.0) {
    double together = 0.0;
    std::size_t count = 0;
    while (count < tokens.size() && together < options.top_p) {
      together += tokens[count].probability;
      ++count;
    }
    keep_first(tokens, count);
  }
  if (options.min_p > 0.0) {
    const double least = options.min_p * tokens.front().probability;
    const auto end = std::ranges::find_if(
        tokens, [&](const TokenProbability& token) { return token.probability < least; });
    keep_first(tokens, static_cast<std::size_t>(end - tokens.begin()));
  }
  return tokens;
}

std::int32_t likeliest_token(std::span<const float> logits) {
  return static_cast<std::int32_t>(find_largest(logits));
}

double log_sum_exp(std::span<const float> logits) {
  const double largest = logits[find_largest(logits)];
  double sum = 0.0;
  for (const float logit : logits) sum += std::exp(logit - largest);
  return largest + std::log(sum);
}

double log_probability(std::span<const float> logits, std::int32_t id) {
  return logits[static_cast<std::size_t>(id)] - log_sum_exp(logits);
}

std::int32_t choose_token(std::span<float> logits, std::span<const std::int32_t> seen,
                          const SamplingOptions& options, std::int64_t sequence,
                          std::int64_t step) {
  penalize_repetition(logits, seen, options.repetition_penalty);
  if (options.temperature == 0.0) return likeliest_token(logits);
  const std::vector<TokenProbability> tokens = token_distribution(logits, options);
  double rest = uniform(options.seed, sequence, step);
  for (const TokenProbability& token : tokens) {
    rest -= token.probability;
    if (rest < 0.0) return token.id;
  }
  return tokens.back().id;  // probabilities rounded to a little less than 1
}

}  // namespace portolan
