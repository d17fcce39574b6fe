// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <map>
#include <vector>

#include "core/error.hpp"
#include "models/generation/sampling.hpp"

namespace portolan {
namespace {

/// Probabilities 0.4, 0.3, 0.2, 0.1 of tokens 2, 0, 3, 1.
std::vector<float> four_tokens() {
  std::vector<float> logits;
  for (const double probability : {0.3, 0.1, 0.4, 0.2}) {
    logits.push_back(static_cast<float>(std::log(probability)) + 5.0F);
  }
  return logits;
}

void expect_distribution(const SamplingOptions& options,
                         const std::vector<TokenProbability>& expected) {
  const std::vector<TokenProbability> found = token_distribution(four_tokens(), options);
  ASSERT_EQ(found.size(), expected.size());
  for (std::size_t i = 0; i < found.size(); ++i) {
    EXPECT_EQ(found[i].id, expected[i].id);
    EXPECT_NEAR(found[i].probability, expected[i].probability, 1e-6);
  }
}

TEST(Sampling, TemperatureRaisesProbabilitiesToItsInverse) {
  const double sum = std::sqrt(0.4) + std::sqrt(0.3) + std::sqrt(0.2) + std::sqrt(0.1);
  expect_distribution({.temperature = 2.0}, {{2, std::sqrt(0.4) / sum},
                                             {0, std::sqrt(0.3) / sum},
                                             {3, std::sqrt(0.2) / sum},
                                             {1, std::sqrt(0.1) / sum}});
}

TEST(Sampling, TopKKeepsTheKLikeliest) {
  expect_distribution({.temperature = 1.0, .top_k = 2}, {{2, 4.0 / 7.0}, {0, 3.0 / 7.0}});
  expect_distribution({.temperature = 1.0, .top_k = 9}, {{2, 0.4}, {0, 0.3}, {3, 0.2}, {1, 0.1}});
}

TEST(Sampling, TopPKeepsTheFewestThatReachIt) {
  expect_distribution({.temperature = 1.0, .top_p = 0.65}, {{2, 4.0 / 7.0}, {0, 3.0 / 7.0}});
  expect_distribution({.temperature = 1.0, .top_p = 0.75},
                      {{2, 4.0 / 9.0}, {0, 3.0 / 9.0}, {3, 2.0 / 9.0}});
  expect_distribution({.temperature = 1.0, .top_p = 1e-6}, {{2, 1.0}});
}

TEST(Sampling, MinPKeepsTokensThatAreNotMuchLessLikelyThanTheLikeliest) {
  expect_distribution({.temperature = 1.0, .min_p = 0.6}, {{2, 4.0 / 7.0}, {0, 3.0 / 7.0}});
}

TEST(Sampling, FiltersApplyInOrderEachToWhatIsLeft) {
  // Of the three likeliest (4/9, 3/9, 2/9) two reach 0.7.
  expect_distribution({.temperature = 1.0, .top_k = 3, .top_p = 0.7},
                      {{2, 4.0 / 7.0}, {0, 3.0 / 7.0}});
}

TEST(Sampling, TheRepetitionPenaltyDividesPositiveAndMultipliesNegativeLogitsOnce) {
  std::vector<float> logits = {2.0F, -1.0F, 3.0F};
  const std::vector<std::int32_t> seen = {0, 1, 0, 7, -1};
  penalize_repetition(logits, seen, 2.0);
  EXPECT_EQ(logits, (std::vector<float>{1.0F, -2.0F, 3.0F}));
}

TEST(Sampling, FrequenciesFollowTheProbabilities) {
  constexpr int kDraws = 20000;
  std::map<std::int32_t, int> counts;
  for (int step = 0; step < kDraws; ++step) {
    std::vector<float> logits = four_tokens();
    ++counts[choose_token(logits, {}, {.temperature = 1.0, .seed = 5}, 3, step)];
  }
  const std::map<std::int32_t, double> expected = {{2, 0.4}, {0, 0.3}, {3, 0.2}, {1, 0.1}};
  double chi_square = 0.0;
  for (const auto& [id, probability] : expected) {
    const double mean = probability * kDraws;
    chi_square += (counts[id] - mean) * (counts[id] - mean) / mean;
  }
  EXPECT_LT(chi_square, 16.27);  // 3 degrees of freedom, one in a thousand
}

TEST(Sampling, SeedSequenceAndStepDecideTheDraw) {
  const auto draws = [](std::uint64_t seed, std::int64_t sequence) {
    std::vector<std::int32_t> ids;
    for (int step = 0; step < 64; ++step) {
      std::vector<float> logits = four_tokens();
      ids.push_back(choose_token(logits, {}, {.temperature = 1.0, .seed = seed}, sequence, step));
    }
    return ids;
  };
  EXPECT_EQ(draws(1, 0), draws(1, 0));
  EXPECT_NE(draws(1, 0), draws(2, 0));
  EXPECT_NE(draws(1, 0), draws(1, 1));
}

TEST(Sampling, GreedyTakesTheFirstOfEquals) {
  std::vector<float> logits = {1.0F, 3.0F, 3.0F};
  EXPECT_EQ(choose_token(logits, {}, {}, 0, 0), 1);
}

TEST(Sampling, LogProbabilitiesAreThoseOfTheSoftmax) {
  EXPECT_NEAR(log_probability(four_tokens(), 3), std::log(0.2), 1e-6);
}

TEST(Sampling, LogitsThatAreNoNumbersAreAnErrorAndExcludedTokensAreNot) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const std::vector<float>& logits :
       {std::vector<float>{1.0F, nan, 3.0F}, {nan, nan}, {1.0F, kInfinity}, {-kInfinity}, {}}) {
    for (const double temperature : {0.0, 1.0}) {
      std::vector<float> own = logits;
      EXPECT_THROW(static_cast<void>(choose_token(own, {}, {.temperature = temperature}, 0, 0)),
                   Error);
    }
    EXPECT_THROW(static_cast<void>(log_sum_exp(logits)), Error);
  }
  std::vector<float> some = {-kInfinity, 1.0F, -kInfinity};
  EXPECT_EQ(choose_token(some, {}, {}, 0, 0), 1);
  EXPECT_EQ(choose_token(some, {}, {.temperature = 1e-300}, 0, 0), 1);
  EXPECT_EQ(log_probability(some, 1), 0.0);
}

TEST(Sampling, OptionsOutOfRangeAreErrors) {
  for (const SamplingOptions& options :
       {SamplingOptions{.repetition_penalty = 0.0}, SamplingOptions{.temperature = -1.0},
        SamplingOptions{.top_k = -1}, SamplingOptions{.top_p = 0.0}, SamplingOptions{.top_p = 1.5},
        SamplingOptions{.min_p = -0.1}}) {
    EXPECT_THROW(options.check(), UsageError);
  }
}

}  // namespace
}  // namespace portolan
