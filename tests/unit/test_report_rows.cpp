// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>
#include <sstream>
#include <string>
#include <vector>

#include "apps/comparison.hpp"
#include "apps/comparison_table.hpp"
#include "apps/published_results.hpp"
#include "tests/unit/file_testing.hpp"

namespace portolan {
namespace {

CompareRow make_row(const std::string& mode, const std::string& dtype, std::int64_t length,
                    double seconds) {
  CompareRow row;
  row.mode = mode;
  row.dtype = dtype;
  row.seq_len = length;
  row.batch = 2;
  row.layers = 2;
  row.ranks = mode == "none" ? 1 : 2;
  row.threads_per_rank = mode == "none" ? 2 : 1;
  row.proven = true;
  row.time_s =
      TimeSamples{seconds, 0.9 * seconds, 1.1 * seconds, {seconds, 1.1 * seconds, 0.9 * seconds}};
  row.floor_s = 0.5 * seconds;
  const auto ranks = static_cast<std::size_t>(row.ranks);
  row.memory.allocated_before_model.assign(ranks, 0);
  row.memory.allocated_peak.assign(ranks, 2500000000);
  row.memory.reserved_peak.assign(ranks, 2600000000);
  row.memory.resident_peak.assign(ranks, 2700000000);
  row.memory.weights.assign(ranks, 2000000000);
  if (row.ranks > 1) {
    row.memory.allocated_peak[1] = 2750000000;
    row.communication.calls = 10;
    row.communication.bytes = 4000;
    row.communication.seconds = 0.1 * seconds;
    row.communication.by_collective["all_reduce"] = {10, 4000, 0.1 * seconds};
    row.communication.expected = {{"all_reduce", {10, 4000, 0.0}}};
    row.max_abs_difference = 1.5e-6;
    row.difference_reference = "none " + dtype;
    row.largest_logit = 4.0;
  }
  return row;
}

TEST(ReportNumbers, HaveThreeSignificantDigits) {
  EXPECT_EQ(number_text(0.0), "0");
  EXPECT_EQ(number_text(12.345), "12.3");
  EXPECT_EQ(number_text(123.45), "123");
  EXPECT_EQ(number_text(0.61234), "0.612");
  EXPECT_EQ(number_text(0.012345), "0.0123");
  EXPECT_EQ(number_text(-3.0), "-3.00");
  EXPECT_EQ(number_text(1.234e-7), "1.23e-07");
  EXPECT_EQ(number_text(1e6), "1.00e+06");
}

TEST(ReportNumbers, GigabytesArePowersOfTen) {
  EXPECT_EQ(gigabytes_text(2500000000), "2.500");
  EXPECT_EQ(gigabytes_text(27400000000), "27.40");
  EXPECT_EQ(gigabytes_text(1234000), "0.00123");
}

TEST(ReportNumbers, TimesShowTheNumberOfSamplesAndTheRange) {
  EXPECT_EQ(time_text({2.0, 1.5, 2.25, {2.0, 1.5, 2.25}}), "2.00 (3) [1.50, 2.25]");
}

TEST(ReportRows, RatiosAreToTheFloorAndToNoneOfTheSameDtypeAndLength) {
  const std::vector<CompareRow> rows{make_row("none", "f32", 8, 2.0),
                                     make_row("none", "bf16", 8, 1.0),
                                     make_row("tp", "f32", 8, 3.0), make_row("tp", "f32", 16, 3.0)};
  EXPECT_DOUBLE_EQ(*time_over_floor(rows[2]), 2.0);
  EXPECT_DOUBLE_EQ(*time_over_none(rows[2], rows), 1.5);
  EXPECT_FALSE(time_over_none(rows[3], rows).has_value()) << "there is no such none";
  EXPECT_DOUBLE_EQ(*communication_share(rows[2]), 0.1);
  CompareRow without = rows[2];
  without.floor_s.reset();
  EXPECT_FALSE(time_over_floor(without).has_value());
  without.time_s.reset();
  EXPECT_FALSE(communication_share(without).has_value());
}

TEST(ReportRows, AreSortedByProtocolDtypeModeRanksAndLength) {
  std::vector<CompareRow> rows{make_row("ring", "f32", 8, 1), make_row("none", "bf16", 8, 1),
                               make_row("sp", "f32", 16, 1),  make_row("sp", "f32", 8, 1),
                               make_row("tp", "f32", 8, 1),   make_row("none", "f32", 8, 1)};
  rows[5].protocol = Protocol::published;
  sort_rows(rows);
  std::string order;
  for (const CompareRow& row : rows)
    order += row.mode + row.dtype + std::to_string(row.seq_len) + " ";
  EXPECT_EQ(order, "tpf328 spf328 spf3216 ringf328 nonebf168 nonef328 ");
}

TEST(ReportRows, SurviveJson) {
  CompareRow row = make_row("tp", "bf16", 512, 0.1234567890123456);
  row.memory.resident_peak_is_of = "this length";
  const nlohmann::json document = nlohmann::json::parse(to_json(row).dump());
  const CompareRow again = parse_row(document, "file", "row");
  EXPECT_EQ(to_json(again), to_json(row));
  EXPECT_EQ(again.time_s->median, row.time_s->median);
  EXPECT_EQ(again.memory.allocated_peak, row.memory.allocated_peak);
  EXPECT_EQ(again.communication.expected->at("all_reduce").bytes, 4000);

  CompareRow refused = make_row("sp", "f32", 8, 1.0);
  refused.proven = false;
  refused.reason = "because";
  refused.time_s.reset();
  const CompareRow refused_again =
      parse_row(nlohmann::json::parse(to_json(refused).dump()), "file", "row");
  EXPECT_FALSE(refused_again.proven);
  EXPECT_EQ(refused_again.reason, "because");
  EXPECT_FALSE(refused_again.time_s.has_value());
}

TEST(ReportRows, MistakesAreNamedByFileAndField) {
  nlohmann::json document = nlohmann::json::parse(to_json(make_row("tp", "f32", 8, 1.0)).dump());
  document["time_s"]["min"] = 0;
  const std::string message = testing::input_error(
      [&document] { static_cast<void>(parse_row(document, "results.json", "rows[7]")); });
  EXPECT_NE(message.find("results.json: field 'rows[7].time_s.min'"), std::string::npos) << message;
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

TEST(ReportTable, ColumnsLineUpAndShowTheRankWithTheMostMemory) {
  std::vector<CompareRow> rows{make_row("none", "f32", 256, 2.0),
                               make_row("tp", "f32", 1024, 13.0)};
  const auto lines = lines_of(text_table(rows));
  ASSERT_EQ(lines.size(), 6u);
  for (std::size_t i = 0; i < 4; ++i) EXPECT_EQ(lines[i].size(), lines[0].size());
  EXPECT_NE(lines[3].find("13.0 (3) [11.7, 14.3]"), std::string::npos) << lines[3];
  EXPECT_NE(lines[3].find("2.750"), std::string::npos) << lines[3];
  EXPECT_NE(lines[3].find("10.0 %"), std::string::npos) << lines[3];
  EXPECT_NE(lines[3].find("1.50e-06"), std::string::npos) << lines[3];
  EXPECT_EQ(lines[4].rfind("/ floor: ", 0), 0u) << lines[4];
  EXPECT_EQ(lines[5].rfind("|diff|: of the logits, up to 4.00, ", 0), 0u) << lines[5];
}

TEST(ReportTable, RefusedRowsGiveTheirReason) {
  std::vector<CompareRow> rows{make_row("tp", "f32", 8, 1.0)};
  rows[0].proven = false;
  rows[0].reason = "it was not on";
  EXPECT_EQ(lines_of(text_table(rows)).at(3), "  refused: it was not on");
  EXPECT_NE(row_line(rows[0]).find("refused: it was not on"), std::string::npos);
}

TEST(ReportCsv, HasAsManyFieldsInEachLineAndQuotesReasons) {
  std::vector<CompareRow> rows{make_row("none", "f32", 8, 1.0), make_row("tp", "f32", 8, 2.0)};
  rows.push_back(make_row("sp", "f32", 8, 2.0));
  rows[2].proven = false;
  rows[2].reason = "counted 1, not \"2\"";
  rows[2].time_s.reset();
  const std::string text = csv_table(rows);
  const auto lines = lines_of(text);
  ASSERT_EQ(lines.size(), 4u);
  EXPECT_NE(lines[3].find(",\"counted 1, not \"\"2\"\"\","), std::string::npos) << lines[3];
  const auto commas = std::count(lines[0].begin(), lines[0].end(), ',');
  EXPECT_EQ(std::count(lines[1].begin(), lines[1].end(), ','), commas);
  EXPECT_EQ(std::count(lines[2].begin(), lines[2].end(), ','), commas);
  EXPECT_EQ(std::count(lines[3].begin(), lines[3].end(), ','), commas + 1) << "one is in quotes";
  EXPECT_EQ(lines[2].substr(0, 27), "fair,tp,f32,8,2,2,2,1,true,");
}

TEST(PublishedResults, HoldWhatTheSourcesState) {
  const auto tables = published_sequence_parallel_tables();
  ASSERT_EQ(tables.size(), 2u);
  for (const PublishedTable& table : tables) {
    ASSERT_EQ(table.points.size(), 3u);
    EXPECT_EQ(table.points[0].seq_len, 256);
    EXPECT_EQ(table.points[2].seq_len, 1024);
  }
  // The constant difference that the report's text rests on.
  for (const PublishedPoint& point : tables[1].points) {
    EXPECT_NEAR(point.tp_gigabytes - point.sp_gigabytes, 13.74, 0.005);
  }
  // Its ratios of CPU times.
  EXPECT_NEAR(tables[0].points[0].tp_s / tables[0].points[0].sp_s, 1.64, 0.005);
  EXPECT_NEAR(tables[0].points[1].tp_s / tables[0].points[1].sp_s, 1.75, 0.005);
  EXPECT_NEAR(tables[0].points[2].tp_s / tables[0].points[2].sp_s, 1.65, 0.005);
}

}  // namespace
}  // namespace portolan
