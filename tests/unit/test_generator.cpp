// SPDX-License-Identifier: Apache-2.0
// Generation over a model small enough to enumerate: the next token depends on the last two.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <vector>

#include "core/error.hpp"
#include "core/random.hpp"
#include "models/generation/generator.hpp"
#include "models/generation/sampling.hpp"

namespace portolan {
namespace {

constexpr std::int64_t kVocabulary = 5;

std::vector<float> logits_after(const TokenIds& ids) {
  const std::int32_t last = ids.back();
  const std::int32_t before = ids.size() > 1 ? ids[ids.size() - 2] : 0;
  std::vector<float> logits;
  for (std::int32_t id = 0; id < kVocabulary; ++id) {
    logits.push_back(2.0F *
                     symmetric_uniform({.seed = 11, .stream = 1},
                                       static_cast<std::uint64_t>(last * 25 + before * 5 + id)));
  }
  return logits;
}

class EnumerableScorer final : public SequenceScorer {
 public:
  NextTokenLogits start(std::span<const TokenIds> prompts) override {
    sequences_.assign(prompts.begin(), prompts.end());
    return logits();
  }
  NextTokenLogits append(std::span<const std::int32_t> ids) override {
    EXPECT_EQ(ids.size(), sequences_.size());
    for (std::size_t i = 0; i < ids.size(); ++i) sequences_[i].push_back(ids[i]);
    return logits();
  }
  void select(std::span<const std::int64_t> entries) override {
    std::vector<TokenIds> selected;
    for (const std::int64_t entry : entries) {
      selected.push_back(sequences_.at(static_cast<std::size_t>(entry)));
    }
    sequences_ = selected;
  }

 private:
  NextTokenLogits logits() {
    NextTokenLogits all{
        Tensor::empty({std::ssize(sequences_), kVocabulary}, DType::f32, {DeviceKind::serial, 0})};
    for (std::size_t i = 0; i < sequences_.size(); ++i) {
      std::ranges::copy(logits_after(sequences_[i]), all.row(static_cast<std::int64_t>(i)).begin());
    }
    return all;
  }

  std::vector<TokenIds> sequences_;
};

TokenIds greedy(TokenIds ids, std::int64_t count, std::int32_t end) {
  TokenIds added;
  while (std::ssize(added) < count && (added.empty() || added.back() != end)) {
    const std::vector<float> logits = logits_after(ids);
    added.push_back(static_cast<std::int32_t>(std::ranges::max_element(logits) - logits.begin()));
    ids.push_back(added.back());
  }
  return added;
}

TEST(Generator, GreedySequencesOfABatchAreThoseOfEachAlone) {
  EnumerableScorer scorer;
  const std::vector<TokenIds> prompts = {{0}, {3, 1, 2}, {4, 4}, {2, 3}};
  for (const std::int32_t end : {0, 1, 2, 3, 4}) {
    const auto found = generate(
        scorer, prompts, {.max_new_tokens = 12, .end_ids = {end}, .log_probabilities = true});
    for (std::size_t i = 0; i < prompts.size(); ++i) {
      EXPECT_EQ(found[i].ids, greedy(prompts[i], 12, end));
      EXPECT_EQ(found[i].finish_reason == FinishReason::end_token, found[i].ids.back() == end);
      ASSERT_EQ(found[i].log_probabilities.size(), found[i].ids.size());
      EXPECT_DOUBLE_EQ(found[i].log_probabilities[0],
                       log_probability(logits_after(prompts[i]), found[i].ids[0]));
    }
  }
}

TEST(Generator, ACallerEndsASequenceWhereItFindsWhatItLooksFor) {
  EnumerableScorer scorer;
  const std::vector<TokenIds> prompts = {{0}, {1}};
  std::vector<int> counts(2);
  const auto found = generate(
      scorer, prompts, {.max_new_tokens = 9, .on_token = [&](std::size_t sequence, std::int32_t) {
                          return ++counts[sequence] == 3 && sequence == 1;
                        }});
  EXPECT_EQ(found[0].ids.size(), 9U);
  EXPECT_EQ(found[0].finish_reason, FinishReason::length);
  EXPECT_EQ(found[1].ids, greedy({1}, 3, -1));
  EXPECT_EQ(found[1].finish_reason, FinishReason::stopped);
}

TEST(Generator, NoNewTokensAskedForAreNone) {
  EnumerableScorer scorer;
  EXPECT_TRUE(generate(scorer, std::vector<TokenIds>{{0}}, {.max_new_tokens = 0})[0].ids.empty());
}

struct Best {
  TokenIds ids;
  double score = -1e30;
};

/// By trying all: a sequence ends with `end` or at the limit.
void search(TokenIds ids, TokenIds added, double sum, std::int64_t limit, std::int32_t end,
            double length_penalty, Best& best) {
  if (!added.empty() && (added.back() == end || std::ssize(added) == limit)) {
    const double score = sum / std::pow(static_cast<double>(added.size()), length_penalty);
    if (score > best.score) best = {added, score};
    return;
  }
  const std::vector<float> logits = logits_after(ids);
  for (std::int32_t id = 0; id < kVocabulary; ++id) {
    TokenIds longer = ids;
    TokenIds more = added;
    longer.push_back(id);
    more.push_back(id);
    search(longer, more, sum + log_probability(logits, id), limit, end, length_penalty, best);
  }
}

TEST(BeamSearch, WithBeamsEnoughFindsTheBestOfAllSequences) {
  EnumerableScorer scorer;
  for (const std::int32_t end : {0, 3}) {
    for (const double length_penalty : {0.0, 1.0}) {
      Best best;
      search({2, 1}, {}, 0.0, 4, end, length_penalty, best);
      const GeneratedSequence found = beam_search(
          scorer, {2, 1},
          {.max_new_tokens = 4, .end_ids = {end}, .beams = 125, .length_penalty = length_penalty});
      EXPECT_EQ(found.ids, best.ids);
    }
  }
}

TEST(BeamSearch, OneBeamIsGreedyUntilItsEnd) {
  EnumerableScorer scorer;
  for (const std::int32_t end : {0, 1, 2}) {
    EXPECT_EQ(beam_search(scorer, {4}, {.max_new_tokens = 8, .end_ids = {end}}).ids,
              greedy({4}, 8, end));
  }
}

TEST(BeamSearch, RefusesScoresThatCannotBeCompared) {
  EnumerableScorer scorer;
  for (const double penalty : {std::nan(""), std::numeric_limits<double>::infinity()}) {
    EXPECT_THROW(static_cast<void>(beam_search(
                     scorer, {1}, {.max_new_tokens = 2, .beams = 2, .length_penalty = penalty})),
                 UsageError);
  }
}

}  // namespace
}  // namespace portolan
