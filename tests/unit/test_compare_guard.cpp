// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include "apps/compare_guard.hpp"
#include "apps/sample_difference.hpp"
#include "core/error.hpp"
#include "core/safetensors_writer.hpp"
#include "tests/unit/file_testing.hpp"

namespace portolan {
namespace {

CompareSettings small_settings() {
  CompareSettings settings;
  settings.layers = 2;
  settings.batch = 1;
  settings.seq_lens = {8};
  settings.repeat = 2;
  return settings;
}

const CompareJob kJob{"tp", "f32", Protocol::fair, 2, 1};

CompareRow good_row() {
  CompareRow row;
  row.mode = "tp";
  row.dtype = "f32";
  row.seq_len = 8;
  row.batch = 1;
  row.layers = 2;
  row.ranks = 2;
  row.threads_per_rank = 1;
  row.proven = true;
  row.time_s = TimeSamples{1.0, 1.0, 1.0, {1.0, 1.0}};
  row.memory.allocated_before_model = {0, 0};
  row.communication.by_collective["all_reduce"] = {4, 1000, 0.1};
  row.communication.expected = {{"all_reduce", {4, 1000, 0.0}}};
  return row;
}

TEST(CompareGuard, RowThatMatchesThePlanStaysProven) {
  CompareRow row = good_row();
  check_row(row, kJob, small_settings());
  EXPECT_TRUE(row.proven) << row.reason;
}

/// The reason for which a row is refused after `change`.
template <typename Change>
std::string reason_after(Change change) {
  CompareRow row = good_row();
  change(row);
  check_row(row, kJob, small_settings());
  EXPECT_FALSE(row.proven);
  return row.reason;
}

void expect_contains(const std::string& text, const std::string& part) {
  EXPECT_NE(text.find(part), std::string::npos) << text;
}

TEST(CompareGuard, CountersThatDifferFromThePlanAreRefused) {
  expect_contains(reason_after([](CompareRow& row) {
                    row.communication.by_collective["all_reduce"].calls = 3;
                  }),
                  "all_reduce: counted 3 calls and 1000 bytes");
  expect_contains(reason_after([](CompareRow& row) {
                    row.communication.by_collective["all_reduce"].bytes = 1001;
                  }),
                  "the plan says 4 calls and 1000 bytes");
  expect_contains(reason_after([](CompareRow& row) { row.communication.by_collective.clear(); }),
                  "counted 0 calls");
  expect_contains(reason_after([](CompareRow& row) {
                    row.communication.by_collective["broadcast"] = {1, 8, 0.0};
                  }),
                  "broadcast: counted 1 call and 8 bytes");
  expect_contains(reason_after([](CompareRow& row) { row.communication.expected.reset(); }),
                  "closed form");
}

TEST(CompareGuard, RanksThatDidNotStartEmptyAreRefused) {
  expect_contains(reason_after([](CompareRow& row) {
                    row.memory.allocated_before_model = {0, 1000000000};
                  }),
                  "1.00 GB were already allocated");
  expect_contains(reason_after([](CompareRow& row) { row.memory.allocated_before_model.clear(); }),
                  "missing");
}

TEST(CompareGuard, RowsOfAnotherJobAreRefused) {
  for (const auto& change : std::vector<void (*)(CompareRow&)>{
           [](CompareRow& row) { row.dtype = "bf16"; }, [](CompareRow& row) { row.ranks = 4; },
           [](CompareRow& row) { row.batch = 2; }, [](CompareRow& row) { row.layers = 1; },
           [](CompareRow& row) { row.threads_per_rank = 2; }}) {
    expect_contains(reason_after(change), "not what was asked for");
  }
}

TEST(CompareGuard, MissingOrTooFewForwardsAreRefused) {
  expect_contains(reason_after([](CompareRow& row) { row.time_s.reset(); }), "no forward");
  expect_contains(reason_after([](CompareRow& row) { row.time_s->samples = {1.0}; }),
                  "1 forwards were timed instead of 2");
}

TEST(CompareGuard, TheWorkersOwnReasonComesFirst) {
  const std::string reason = reason_after([](CompareRow& row) {
    row.proven = false;
    row.reason = "its own";
    row.communication.by_collective.clear();
  });
  EXPECT_EQ(reason, "its own");
}

class SampledLogits : public ::testing::Test {
 protected:
  std::filesystem::path write(const std::string& name, const std::vector<std::int64_t>& rows,
                              const std::vector<float>& logits) {
    const auto path = folder_ / name;
    const auto count = static_cast<std::int64_t>(rows.size());
    const auto vocabulary = static_cast<std::int64_t>(logits.size()) / count;
    const std::vector<SafetensorsTensor> tensors{{"rows.8", DType::i64, {count}},
                                                 {"logits.8", DType::f32, {count, vocabulary}}};
    SafetensorsWriter writer(path, tensors);
    writer.append("rows.8", std::as_bytes(std::span(rows)));
    writer.append("logits.8", std::as_bytes(std::span(logits)));
    writer.finish();
    return path;
  }

  testing::TemporaryFolder folder_;
};

TEST_F(SampledLogits, LargestDifferenceAndScaleAreFound) {
  const auto a = write("a", {0, 7}, {1.0F, -2.0F, 3.0F, 4.5F});
  const auto b = write("b", {0, 7}, {1.0F, -2.5F, 3.0F, 4.25F});
  const SampleDifference difference = compare_samples(a, b, 8);
  EXPECT_EQ(difference.max_abs_difference, 0.5);
  EXPECT_EQ(difference.largest_logit, 4.25);
}

TEST_F(SampledLogits, NotANumberIsNeverAgreement) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const auto a = write("a", {0}, {1.0F, nan});
  const auto b = write("b", {0}, {1.0F, 2.0F});
  EXPECT_TRUE(std::isinf(compare_samples(a, b, 8).max_abs_difference));
  EXPECT_TRUE(std::isinf(compare_samples(b, a, 8).max_abs_difference));
  EXPECT_TRUE(std::isinf(compare_samples(a, a, 8).max_abs_difference));
}

TEST_F(SampledLogits, OtherRowsShapesAndMissingTensorsAreRefused) {
  const auto a = write("a", {0, 7}, {1.0F, 2.0F, 3.0F, 4.0F});
  EXPECT_THROW(static_cast<void>(compare_samples(a, write("b", {0, 6}, {1, 2, 3, 4}), 8)),
               InputError);
  EXPECT_THROW(static_cast<void>(compare_samples(a, write("c", {0, 7}, {1, 2}), 8)), InputError);
  EXPECT_THROW(static_cast<void>(compare_samples(a, a, 9)), InputError);
  EXPECT_THROW(static_cast<void>(compare_samples(a, folder_ / "none", 8)), InputError);
}

TEST_F(SampledLogits, RowsAreComparedWithNoneOfTheirDtypeAndNoneWithF32) {
  SampleFiles files;
  files[{"none", "f32", 1}] = write("none-f32", {0}, {2.0F, 1.0F});
  files[{"none", "bf16", 1}] = write("none-bf16", {0}, {2.0F, 1.125F});
  files[{"tp", "bf16", 2}] = write("tp-bf16", {0}, {2.0F, 1.1875F});
  std::vector<CompareRow> rows(3, good_row());
  rows[0].mode = rows[1].mode = "none";
  rows[0].ranks = rows[1].ranks = 1;
  rows[1].dtype = rows[2].dtype = "bf16";
  compare_logits(rows, files);
  EXPECT_FALSE(rows[0].max_abs_difference.has_value());
  EXPECT_EQ(rows[1].max_abs_difference, 0.125);
  EXPECT_EQ(rows[1].difference_reference, "none f32");
  EXPECT_EQ(rows[2].max_abs_difference, 0.0625);
  EXPECT_EQ(rows[2].difference_reference, "none bf16");
  for (const CompareRow& row : rows) EXPECT_TRUE(row.proven) << row.reason;
}

TEST_F(SampledLogits, RowsWaitForTheirReference) {
  SampleFiles files;
  files[{"tp", "f32", 2}] = write("tp", {0}, {2.0F});
  std::vector<CompareRow> rows{good_row()};
  compare_logits(rows, files);
  EXPECT_FALSE(rows[0].max_abs_difference.has_value());
  EXPECT_TRUE(rows[0].proven);
  files[{"none", "f32", 1}] = write("none", {0}, {2.5F});
  compare_logits(rows, files);
  EXPECT_EQ(rows[0].max_abs_difference, 0.5);
  EXPECT_FALSE(rows[0].proven) << "far beyond rounding";
}

TEST_F(SampledLogits, LogitsOfNoneThatAreNotFiniteAreRefused) {
  SampleFiles files;
  files[{"none", "f32", 1}] = write("none", {0}, {std::numeric_limits<float>::infinity()});
  std::vector<CompareRow> rows{good_row()};
  rows[0].mode = "none";
  rows[0].ranks = 1;
  compare_logits(rows, files);
  EXPECT_FALSE(rows[0].proven);
}

TEST(CompareGuard, AcceptedDifferencesGrowWithTheRoundingOfTheDtype) {
  EXPECT_LT(accepted_difference("f32"), accepted_difference("f16"));
  EXPECT_LT(accepted_difference("f16"), accepted_difference("bf16"));
  EXPECT_LT(accepted_difference("bf16"), 0.5);
}

}  // namespace
}  // namespace portolan
