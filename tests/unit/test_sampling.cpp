// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "core/error.hpp"
#include "models/generation/sampling.hpp"
#include "models/generation/token_chooser.hpp"

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

TEST(Sampling, LikeliestTokensComeInTheirOrder) {
  for (const std::size_t count : {0, 2, 4, 9}) {
    const std::vector<TokenProbability> expected = {{2, 0.4}, {0, 0.3}, {3, 0.2}, {1, 0.1}};
    const std::vector<TokenProbability> found = likeliest_tokens(four_tokens(), count);
    ASSERT_EQ(found.size(), std::min(count, expected.size()));
    for (std::size_t i = 0; i < found.size(); ++i) {
      EXPECT_EQ(found[i].id, expected[i].id);
      EXPECT_NEAR(found[i].probability, expected[i].probability, 1e-6);
    }
  }
  const std::vector<float> equal(3, 1.0F);
  EXPECT_EQ(likeliest_tokens(equal, 2).back().id, 1);
}

TEST(Sampling, TheRepetitionPenaltyDividesPositiveAndMultipliesNegativeLogitsOnce) {
  std::vector<float> logits = {2.0F, -1.0F, 3.0F};
  const std::vector<std::int32_t> seen = {0, 1, 0, 7, -1};
  penalize_repetition(logits, seen, 2.0);
  EXPECT_EQ(logits, (std::vector<float>{1.0F, -2.0F, 3.0F}));
}

TEST(Sampling, LogProbabilitiesAreThoseOfTheSoftmax) {
  EXPECT_NEAR(log_probability(four_tokens(), 3), std::log(0.2), 1e-6);
}

TEST(Sampling, LogitsThatAreNoNumbersAreAnErrorAndExcludedTokensAreNot) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const std::vector<float>& logits :
       {std::vector<float>{1.0F, nan, 3.0F}, {nan, nan}, {1.0F, kInfinity}, {-kInfinity}, {}}) {
    EXPECT_THROW(static_cast<void>(log_sum_exp(logits)), Error);
    EXPECT_THROW(static_cast<void>(likeliest_tokens(logits, 1)), Error);
  }
  const std::vector<float> some = {-kInfinity, 1.0F, -kInfinity};
  EXPECT_EQ(log_probability(some, 1), 0.0);
}

TEST(Sampling, OptionsOutOfRangeAreErrors) {
  for (const TokenChoice& choice :
       {TokenChoice{.repetition_penalty = 0.0}, TokenChoice{.temperature = -1.0},
        TokenChoice{.top_k = -1}, TokenChoice{.top_p = 0.0}, TokenChoice{.top_p = 1.5},
        TokenChoice{.min_p = -0.1}}) {
    EXPECT_THROW(choice.check(), UsageError);
  }
}

Tensor rows_of(const std::vector<std::vector<float>>& rows) {
  Tensor tensor = Tensor::empty({std::ssize(rows), std::ssize(rows.front())}, DType::f32,
                                {DeviceKind::serial, 0});
  auto* to = tensor.data<float>();
  for (const std::vector<float>& row : rows) to = std::ranges::copy(row, to).out;
  return tensor;
}

TEST(TokenChooser, RemembersWhatOccurredInEachSequence) {
  // A penalty of 2 lets each token win once, then the next likeliest.
  const std::vector<float> row = {4.0F, 3.9F, 3.8F, 1.0F};
  TokenChooser chooser({.repetition_penalty = 2.0}, std::vector<TokenIds>{{0, 9}, {1, 1}, {3}});
  EXPECT_EQ(chooser.choose(rows_of({row, row, row}), 0), (TokenIds{1, 0, 0}));
  EXPECT_EQ(chooser.choose(rows_of({row, row, row}), 1), (TokenIds{2, 2, 1}));
  chooser.select(std::vector<std::int64_t>{2});
  EXPECT_EQ(chooser.choose(rows_of({row}), 2), (TokenIds{2}));
  EXPECT_EQ(chooser.choose(rows_of({row}), 3), (TokenIds{0}));
}

TEST(TokenChooser, ASequenceDrawsAsItsNumberWhateverIsBesideIt) {
  const TokenChoice choice{.temperature = 1.0, .key = sampling_key(3)};
  const std::vector<float> row = four_tokens();
  TokenChooser all(choice, std::vector<TokenIds>{{0}, {0}, {0}});
  std::vector<TokenIds> expected;
  for (int step = 0; step < 40; ++step) {
    expected.push_back(all.choose(rows_of({row, row, row}), step));
  }
  TokenChooser last(choice, std::vector<TokenIds>{{0}, {0}, {0}});
  EXPECT_EQ(last.choose(rows_of({row, row, row}), 0), expected[0]);
  last.select(std::vector<std::int64_t>{1, 2});
  EXPECT_EQ(last.choose(rows_of({row, row}), 1), (TokenIds{expected[1][1], expected[1][2]}));
  last.select(std::vector<std::int64_t>{1});
  for (int step = 2; step < 40; ++step) {
    EXPECT_EQ(last.choose(rows_of({row}), step),
              (TokenIds{expected[static_cast<std::size_t>(step)][2]}));
  }
}

TEST(TokenChooser, LogitsThatAreNoNumbersAreAnError) {
  TokenChooser chooser({}, std::vector<TokenIds>{{0}, {0}});
  EXPECT_THROW(static_cast<void>(chooser.choose(rows_of({{1.0F}, {std::nanf("")}}), 0)), Error);
}

}  // namespace
}  // namespace portolan
