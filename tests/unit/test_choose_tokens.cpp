// SPDX-License-Identifier: Apache-2.0
// The choice of tokens on each device against a reference that sorts, in f64.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <string>
#include <vector>

#include "core/error.hpp"
#include "core/ops.hpp"
#include "tests/reference/sampling_reference.hpp"
#include "tests/unit/checksums.hpp"
#include "tests/unit/devices.hpp"
#include "tests/unit/op_list.hpp"

namespace portolan::testing_support {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

using Row = std::vector<float>;
using Seen = std::vector<std::uint8_t>;
using Ids = std::vector<std::int32_t>;

template <typename T>
Tensor device_tensor(const std::vector<T>& values, const Shape& shape, DType dtype, Device device) {
  const Tensor host = Tensor::empty(shape, dtype, {DeviceKind::serial, 0});
  std::ranges::copy(values, host.data<T>());
  return ops::to_device(host, device);
}

/// Rows on a device with `gap` columns between them.
template <typename T>
Tensor row_tensor(const std::vector<std::vector<T>>& rows, std::int64_t gap, T filling, DType dtype,
                  Device device) {
  std::vector<T> values;
  for (const std::vector<T>& row : rows) {
    values.insert(values.end(), row.begin(), row.end());
    values.insert(values.end(), static_cast<std::size_t>(gap), filling);
  }
  const std::int64_t columns = std::ssize(rows.front());
  return device_tensor(values, {std::ssize(rows), columns + gap}, dtype, device)
      .slice(1, 0, columns);
}

/// Logits of some rows, and what occurred before (no rows: not given).
struct Question {
  std::vector<Row> logits;
  std::vector<Seen> seen = {};
  TokenChoice choice = {};
  Ids sequences = {};  ///< default: 0, 1, ...
  std::int64_t step = 0;
  std::int64_t gap = 0;
};

struct Answer {
  Ids ids;
  std::vector<Seen> seen;  ///< afterwards
};

Answer answer(const Question& question, Device device) {
  const std::int64_t rows = std::ssize(question.logits);
  Ids sequences = question.sequences;
  while (std::ssize(sequences) < rows) {
    sequences.push_back(static_cast<std::int32_t>(sequences.size()));
  }
  // What lies between rows would be chosen if it were read.
  const Tensor logits = row_tensor(question.logits, question.gap, 1e30F, DType::f32, device);
  Tensor seen;
  if (!question.seen.empty()) {
    seen = row_tensor(question.seen, question.gap, std::uint8_t{7}, DType::u8, device);
  }
  const Tensor before = ops::to_dtype(logits, DType::f32);
  const Tensor ids =
      device_tensor(Ids(static_cast<std::size_t>(rows), -7), {rows}, DType::i32, device);
  ops::choose_tokens(logits, seen, question.choice,
                     device_tensor(sequences, {rows}, DType::i32, device), question.step, ids);
  EXPECT_EQ(checksum_of(ops::to_dtype(logits, DType::f32)), checksum_of(before));
  Answer result;
  const Tensor host_ids = ops::to_host(ids);
  result.ids.assign(host_ids.data<std::int32_t>(), host_ids.data<std::int32_t>() + rows);
  if (seen.defined()) {
    const Tensor host = ops::to_host(seen);
    for (std::int64_t row = 0; row < rows; ++row) {
      const std::uint8_t* const begin = host.data<std::uint8_t>() + row * host.dim(1);
      result.seen.emplace_back(begin, begin + host.dim(1));
    }
  }
  return result;
}

/// The number in [0, 1) that decides a draw.
double uniform(RandomKey key, std::int64_t sequence, std::int64_t step) {
  const auto words = random_words({key.seed, key.stream + static_cast<std::uint64_t>(sequence)},
                                  static_cast<std::uint64_t>(step));
  return words[0] * 0x1p-32 + (words[1] >> 11) * 0x1p-53;
}

class ChooseTokens : public ::testing::TestWithParam<DeviceKind> {
 protected:
  [[nodiscard]] Device device() const { return {GetParam(), 0}; }
  [[nodiscard]] Ids ids(const Question& question) const { return answer(question, device()).ids; }

  /// All tokens that come up in `draws` draws from one row, and how often.
  [[nodiscard]] std::map<std::int32_t, int> counts(const Row& row, TokenChoice choice,
                                                   std::int64_t draws) const {
    choice.key = {.seed = 5, .stream = 9};
    std::map<std::int32_t, int> result;
    const Question question{.logits = std::vector<Row>(1, row), .choice = choice};
    for (std::int64_t step = 0; step < draws; ++step) {
      Question next = question;
      next.step = step;
      ++result[ids(next)[0]];
    }
    return result;
  }
  /// The tokens that 200 draws find; each has a probability of at least a tenth.
  [[nodiscard]] Ids kept(const Row& row, const TokenChoice& choice) const {
    Ids result;
    for (const auto& [id, count] : counts(row, choice, 200)) result.push_back(id);
    return result;
  }
};

/// Probabilities 0.4, 0.3, 0.2, 0.1 of tokens 2, 0, 3, 1.
Row four_tokens() {
  Row logits;
  for (const double probability : {0.3, 0.1, 0.4, 0.2}) {
    logits.push_back(static_cast<float>(std::log(probability)) + 5.0F);
  }
  return logits;
}

TEST_P(ChooseTokens, GreedyTakesTheFirstOfTheLargest) {
  EXPECT_EQ(ids({.logits = {{1.0F, 3.0F, 3.0F}, {-2.0F, -1.0F, -3.0F}, {-0.0F, 0.0F, -1.0F}}}),
            (Ids{1, 1, 0}));
  // The place of the largest in a vocabulary of several chunks, twice or alone.
  for (const std::int64_t place : {0, 4095, 4096, 9000, 12287, 12288, 12344}) {
    Row row(12345, -1.0F);
    row[static_cast<std::size_t>(place)] = 2.0F;
    row.back() = 2.0F;
    EXPECT_EQ(ids({.logits = {row}, .choice = {.top_k = 3, .top_p = 0.1}}),
              (Ids{static_cast<std::int32_t>(place)}));
  }
}

TEST_P(ChooseTokens, FrequenciesFollowTheProbabilities) {
  constexpr int kDraws = 20000;
  const std::map<std::int32_t, double> expected = {{2, 0.4}, {0, 0.3}, {3, 0.2}, {1, 0.1}};
  for (const double top_p : {1.0, 0.999999}) {
    auto found = counts(four_tokens(), {.temperature = 1.0, .top_p = top_p}, kDraws);
    double chi_square = 0.0;
    for (const auto& [id, probability] : expected) {
      const double mean = probability * kDraws;
      chi_square += (found[id] - mean) * (found[id] - mean) / mean;
    }
    EXPECT_LT(chi_square, 16.27);  // 3 degrees of freedom, one in a thousand
  }
}

TEST_P(ChooseTokens, FiltersKeepWhatTheySay) {
  const Row row = four_tokens();
  EXPECT_EQ(kept(row, {.temperature = 1.0}), (Ids{0, 1, 2, 3}));
  EXPECT_EQ(kept(row, {.temperature = 1.0, .top_k = 2}), (Ids{0, 2}));
  EXPECT_EQ(kept(row, {.temperature = 1.0, .top_k = 9}), (Ids{0, 1, 2, 3}));
  EXPECT_EQ(kept(row, {.temperature = 1.0, .top_p = 0.65}), (Ids{0, 2}));
  EXPECT_EQ(kept(row, {.temperature = 1.0, .top_p = 0.75}), (Ids{0, 2, 3}));
  EXPECT_EQ(kept(row, {.temperature = 1.0, .top_p = 1e-300}), (Ids{2}));
  EXPECT_EQ(kept(row, {.temperature = 1.0, .min_p = 0.6}), (Ids{0, 2}));
  EXPECT_EQ(kept(row, {.temperature = 1.0, .min_p = 1.0}), (Ids{2}));
  // Of the three likeliest (4/9, 3/9, 2/9) two reach 0.7; of all four, three would.
  EXPECT_EQ(kept(row, {.temperature = 1.0, .top_k = 3, .top_p = 0.7}), (Ids{0, 2}));
  // Half as likely as the likeliest at temperature 1, more at 2.
  EXPECT_EQ(kept(row, {.temperature = 1.0, .min_p = 0.51}), (Ids{0, 2}));
  EXPECT_EQ(kept(row, {.temperature = 2.0, .min_p = 0.51}), (Ids{0, 2, 3}));
}

TEST_P(ChooseTokens, OfEqualsTheFirstAreKept) {
  const Row equal(8, 0.25F);
  EXPECT_EQ(kept(equal, {.temperature = 1.0, .top_k = 3}), (Ids{0, 1, 2}));
  EXPECT_EQ(kept(equal, {.temperature = 1.0, .top_p = 0.5}), (Ids{0, 1, 2, 3}));
  EXPECT_EQ(kept(equal, {.temperature = 1.0, .top_k = 4, .top_p = 0.5}), (Ids{0, 1}));
  EXPECT_EQ(kept(equal, {.temperature = 1.0, .min_p = 1.0}), (Ids{0, 1, 2, 3, 4, 5, 6, 7}));
  // Both zeros are equal, whichever comes first.
  EXPECT_EQ(kept({-1.0F, -0.0F, 0.0F, -0.0F}, {.temperature = 1.0, .top_k = 2}), (Ids{1, 2}));
  // The limit lies among equals of three chunks.
  Row row(10000, -3.0F);
  for (const std::size_t id : {100, 5000, 6000, 9000, 9999}) row[id] = 3.0F;
  EXPECT_EQ(kept(row, {.temperature = 0.01, .top_k = 4}), (Ids{100, 5000, 6000, 9000}));
  EXPECT_EQ(kept(row, {.temperature = 0.01, .top_p = 0.59}), (Ids{100, 5000, 6000}));
}

TEST_P(ChooseTokens, SequenceStepAndKeyDecideTheDraw) {
  const auto draws = [this](RandomKey key, std::int32_t sequence) {
    Ids result;
    for (std::int64_t step = 0; step < 64; ++step) {
      result.push_back(ids({.logits = {four_tokens()},
                            .choice = {.temperature = 1.0, .key = key},
                            .sequences = {sequence},
                            .step = step})[0]);
    }
    return result;
  };
  const RandomKey key{.seed = 1, .stream = 40};
  EXPECT_EQ(draws(key, 0), draws(key, 0));
  EXPECT_NE(draws(key, 0), draws({.seed = 2, .stream = 40}, 0));
  EXPECT_NE(draws(key, 0), draws(key, 1));
  EXPECT_EQ(draws(key, 1), draws({.seed = 1, .stream = 41}, 0));
}

TEST_P(ChooseTokens, LogitsThatAreNoNumbersAreRefusedRowByRow) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const std::vector<Row> rows = {{1.0F, nan, 3.0F},
                                 {-nan, 1.0F, 2.0F},
                                 {1.0F, kInfinity, 0.0F},
                                 {-kInfinity, -kInfinity, -kInfinity},
                                 {-kInfinity, 1.0F, -kInfinity}};
  for (const TokenChoice& choice :
       {TokenChoice{}, TokenChoice{.temperature = 1.0}, TokenChoice{.temperature = 1e-320},
        TokenChoice{.temperature = 1e300, .min_p = 0.5},
        TokenChoice{.temperature = 1.0, .top_k = 2},
        TokenChoice{.temperature = 1.0, .top_p = 0.5}}) {
    EXPECT_EQ(ids({.logits = rows, .choice = choice}), (Ids{-1, -1, -1, -1, 1}));
    Row wide(9000, 0.0F);
    wide[8999] = nan;
    EXPECT_EQ(ids({.logits = {wide}, .choice = choice}), (Ids{-1}));
  }
}

TEST_P(ChooseTokens, ThePenaltyAppliesToWhatOccurredAndTheChosenTokenIsMarked) {
  const std::vector<Row> rows = {{2.0F, -1.0F, 1.5F}, {-2.0F, -1.0F, -1.5F}, {2.0F, 1.0F, 1.9F}};
  const std::vector<Seen> seen = {{1, 0, 0}, {0, 1, 0}, {0, 0, 0}};
  for (const double temperature : {0.0, 1e-9}) {
    for (const std::int64_t top_k : {0, 2}) {
      Question question{
          .logits = rows,
          .seen = seen,
          .choice = {.repetition_penalty = 2.0, .temperature = temperature, .top_k = top_k},
          .gap = 3};
      const Answer penalized = answer(question, device());
      EXPECT_EQ(penalized.ids, (Ids{2, 2, 0}));
      EXPECT_EQ(penalized.seen, (std::vector<Seen>{{1, 0, 1}, {0, 1, 1}, {1, 0, 0}}));
      question.choice.repetition_penalty = 1.0;
      const Answer plain = answer(question, device());
      EXPECT_EQ(plain.ids, (Ids{0, 1, 0}));
      EXPECT_EQ(plain.seen, (std::vector<Seen>{{1, 0, 0}, {0, 1, 0}, {1, 0, 0}}));
    }
  }
  // No row that has nothing to choose from is marked.
  EXPECT_EQ(answer({.logits = {{kInfinity, 0.0F}}, .seen = {{0, 0}}}, device()).seen,
            (std::vector<Seen>{{0, 0}}));
}

TEST_P(ChooseTokens, OperandsThatDoNotFitAreErrors) {
  const Tensor logits = row_tensor<float>({{1.0F, 2.0F}}, 0, 0.0F, DType::f32, device());
  const Tensor seen = row_tensor<std::uint8_t>({{0, 0, 0}}, 0, 0, DType::u8, device());
  const Tensor one = device_tensor(Ids{0}, {1}, DType::i32, device());
  const Tensor two = device_tensor(Ids{0, 0}, {2}, DType::i32, device());
  EXPECT_THROW(ops::choose_tokens(logits, seen, {}, one, 0, one), UsageError);
  EXPECT_THROW(ops::choose_tokens(logits, {}, {}, two, 0, one), UsageError);
  EXPECT_THROW(ops::choose_tokens(logits, {}, {}, one, 0, two), UsageError);
  EXPECT_THROW(ops::choose_tokens(logits.slice(1, 0, 0), {}, {}, one, 0, one), UsageError);
  EXPECT_THROW(ops::choose_tokens(ops::to_dtype(logits, DType::bf16), {}, {}, one, 0, one),
               UsageError);
  EXPECT_THROW(ops::choose_tokens(logits, {}, {.top_p = 0.0}, one, 0, one), UsageError);
}

INSTANTIATE_TEST_SUITE_P(, ChooseTokens, ::testing::ValuesIn(kDevices), name_of_device);

template <typename T>
const T& any_of(Generator& generator, const std::vector<T>& values) {
  return values[generator.word() % values.size()];
}

/// Rows of every kind: few and many tokens, equals, masks, spreads from none to all of f32.
Question random_question(std::uint64_t seed) {
  Generator generator(seed);
  const auto columns = any_of<std::size_t>(generator, {1, 2, 3, 7, 40, 40, 300, 300, 4097, 9001});
  const auto rows = 1 + generator.word() % 5;
  const auto spread = any_of<double>(generator, {0.0, 1e-6, 0.3, 3.0, 3.0, 12.0, 1e4, 2e38});
  const bool coarse = generator.word() % 3 == 0;
  const bool masked = generator.word() % 4 == 0;
  Question question;
  for (std::size_t row = 0; row < rows; ++row) {
    Row logits;
    Seen seen;
    for (std::size_t id = 0; id < columns; ++id) {
      double value = generator.symmetric();
      if (coarse) value = std::round(value * 4.0) / 4.0;
      logits.push_back(static_cast<float>(value * spread));
      if (masked && generator.word() % 2 == 0) logits.back() = -kInfinity;
      seen.push_back(generator.word() % 3 == 0);
    }
    if (masked) logits[generator.word() % columns] = 0.0F;  // so that one is left
    question.logits.push_back(std::move(logits));
    question.seen.push_back(std::move(seen));
    question.sequences.push_back(static_cast<std::int32_t>(generator.word() % 1000));
  }
  const auto some = static_cast<std::int64_t>(1 + generator.word() % columns);
  question.choice = {
      .repetition_penalty = any_of<double>(generator, {1.0, 1.0, 1.3, 0.7}),
      .temperature =
          any_of<double>(generator, {1e-320, 1e-3, 0.2, 0.7, 1.0, 1.0, 3.0, 1e3, 1e37, 1e300}),
      .top_k = any_of<std::int64_t>(generator, {0, 0, 0, 1, 2, 5, 50, some, 20000}),
      .top_p = any_of<double>(generator, {1.0, 1.0, 0.999999, 0.9, 0.5, 0.1, 1e-9, 1e-300}),
      .min_p = any_of<double>(generator, {0.0, 0.0, 0.0, 0.01, 0.3, 1.0}),
      .key = {generator.word(), generator.word()}};
  question.step = static_cast<std::int64_t>(generator.word() % 100000);
  question.gap = static_cast<std::int64_t>(generator.word() % 3);
  if (question.choice.repetition_penalty == 1.0 && generator.word() % 2 == 0) question.seen.clear();
  return question;
}

/// Whether the f64 of the reference is sure of a row, and then that the choice is its.
bool matches_where_sure(const Question& question, std::size_t row, std::int32_t found) {
  const TokenChoice& choice = question.choice;
  Row logits = question.logits[row];
  if (!question.seen.empty()) {
    logits = reference::penalized(logits, question.seen[row], choice.repetition_penalty);
  }
  const reference::TokenDistribution distribution = reference::token_distribution(
      logits,
      {choice.repetition_penalty, choice.temperature, choice.top_k, choice.top_p, choice.min_p});
  const double u = uniform(choice.key, question.sequences[row], question.step);
  const reference::TokenDraw expected = reference::draw(distribution, u);
  constexpr double kClose = 1e-9;
  if (distribution.margin < kClose || expected.margin < kClose) return false;
  EXPECT_EQ(found, expected.id) << "u " << u << " of " << logits.size() << " tokens";
  return true;
}

TEST(ChooseTokensFuzz, EveryDeviceChoosesWhatTheReferenceDoes) {
  constexpr std::uint64_t kQuestions = 3000;
  std::size_t sure = 0;
  std::size_t rows = 0;
  for (std::uint64_t seed = 0; seed < kQuestions; ++seed) {
    const Question question = random_question(seed);
    SCOPED_TRACE(fmt::format("seed {}", seed));
    const Answer first = answer(question, {kDevices[0], 0});
    for (std::size_t row = 0; row < question.logits.size(); ++row) {
      ASSERT_GE(first.ids[row], 0);
      sure += matches_where_sure(question, row, first.ids[row]) ? 1 : 0;
      ++rows;
      if (question.seen.empty()) continue;
      Seen expected = question.seen[row];
      expected[static_cast<std::size_t>(first.ids[row])] = 1;
      EXPECT_EQ(first.seen[row], expected);
    }
    // The others choose the same, sure or not.
    for (const DeviceKind kind : kDevices) {
      const Answer other = answer(question, {kind, 0});
      EXPECT_EQ(other.ids, first.ids) << name_of(kind);
      EXPECT_EQ(other.seen, first.seen) << name_of(kind);
    }
    if (HasFailure()) return;
  }
  EXPECT_GT(sure, rows * 8 / 10);
}

TEST(ChooseTokensThreads, TheirNumberDoesNotChangeAChoice) {
  expect_same_bits("choices", {2, 3, 4}, 50);
}

}  // namespace

std::string choice_checksums() {
  std::string lines;
  for (const DeviceKind kind : kDevices) {
    for (std::uint64_t seed = 0; seed < 100; ++seed) {
      const Question question = random_question(10000 + seed);
      lines += fmt::format("{} {} {}\n", name_of(kind), seed,
                           fmt::join(answer(question, {kind, 0}).ids, " "));
    }
  }
  return lines;
}

}  // namespace portolan::testing_support
