// SPDX-License-Identifier: Apache-2.0
#include "tests/reference/sampling_reference.hpp"

#include <algorithm>
#include <cmath>

namespace portolan::reference {
namespace {

void normalize(std::vector<TokenProbability>& tokens) {
  double sum = 0.0;
  for (const TokenProbability& token : tokens) sum += token.probability;
  for (TokenProbability& token : tokens) token.probability /= sum;
}

}  // namespace

std::vector<float> penalized(std::span<const float> logits, std::span<const std::uint8_t> seen,
                             double penalty) {
  std::vector<float> result(logits.begin(), logits.end());
  for (std::size_t id = 0; id < result.size(); ++id) {
    if (seen[id] == 0) continue;
    const double logit = result[id];
    result[id] = static_cast<float>(logit > 0.0 ? logit / penalty : logit * penalty);
  }
  return result;
}

TokenDistribution token_distribution(std::span<const float> logits, const Sampling& sampling) {
  std::vector<std::int32_t> order(logits.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = static_cast<std::int32_t>(i);
  const auto logit = [&](std::int32_t id) { return double{logits[static_cast<std::size_t>(id)]}; };
  std::ranges::stable_sort(order,
                           [&](std::int32_t a, std::int32_t b) { return logit(a) > logit(b); });
  const double largest = logit(order.front());

  TokenDistribution result;
  std::vector<TokenProbability>& tokens = result.tokens;
  for (const std::int32_t id : order) {
    tokens.push_back({id, std::exp((logit(id) - largest) / sampling.temperature)});
  }
  if (sampling.top_k > 0 && sampling.top_k < std::ssize(tokens)) {
    tokens.resize(static_cast<std::size_t>(sampling.top_k));
  }
  normalize(tokens);
  if (sampling.top_p < 1.0) {
    double together = 0.0;
    std::size_t count = 0;
    while (count < tokens.size() && (count == 0 || together < sampling.top_p)) {
      if (count > 0) result.margin = std::min(result.margin, sampling.top_p - together);
      together += tokens[count++].probability;
    }
    result.margin = std::min(result.margin, std::abs(together - sampling.top_p));
    tokens.resize(count);
  }
  const double likeliest = tokens.front().probability;
  std::erase_if(tokens, [&](const TokenProbability& token) {
    const double ratio = token.probability / likeliest;
    if (ratio < 1.0) result.margin = std::min(result.margin, std::abs(ratio - sampling.min_p));
    return ratio < sampling.min_p;
  });
  normalize(tokens);
  std::ranges::sort(tokens, {}, &TokenProbability::id);
  return result;
}

TokenDraw draw(const TokenDistribution& distribution, double u) {
  double begin = 0.0;
  TokenDraw result;
  for (const TokenProbability& token : distribution.tokens) {
    const double end = begin + token.probability;
    if (u < end || &token == &distribution.tokens.back()) {
      result = {token.id, end - u};
      break;
    }
    begin = end;
  }
  if (begin > 0.0) result.margin = std::min(result.margin, u - begin);
  return result;
}

}  // namespace portolan::reference
