// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "core/error.hpp"
#include "parallel/mesh.hpp"
#include "parallel/plan.hpp"

namespace portolan {
namespace {

std::string message_of(const auto& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

const std::vector<PlanParameter> kParameters{
    {"block.in.weight", {12, 8}}, {"block.out.weight", {8, 12}}, {"block.norm.weight", {8}}};

PlanAxes axes(int ranks) { return {{"features", plan_axis(Partition::even(12, ranks))}}; }

TEST(Plan, FirstMatchingRuleDecidesAndUnnamedParametersAreReplicated) {
  const ResolvedPlan plan =
      resolve_plan({{R"(block\.in\.weight)", ShardStyle::column, "features"},
                    {R"(block\.(in|out)\.weight)", ShardStyle::row, "features"}},
                   kParameters, axes(3), 3);
  EXPECT_EQ(plan.at("block.in.weight").ranges[1], (ShardRange{4, 8, 0, 8}));
  EXPECT_EQ(plan.at("block.out.weight").ranges[2], (ShardRange{0, 8, 8, 12}));
  EXPECT_EQ(plan.at("block.norm.weight").style, ShardStyle::replicate);
  EXPECT_EQ(plan.at("block.norm.weight").ranges[0], (ShardRange{0, 8, 0, 1}));
  EXPECT_EQ(plan.elements(0), 4 * 8 + 8 * 4 + 8);
}

TEST(Plan, PatternMustMatchTheWholeName) {
  EXPECT_NE(message_of([] {
              static_cast<void>(resolve_plan({{"block", ShardStyle::column, "features"}},
                                             kParameters, axes(2), 2));
            }).find("'block' matches no parameter"),
            std::string::npos);
}

TEST(Plan, PatternThatIsNoRegularExpressionIsNamed) {
  EXPECT_NE(message_of([] {
              static_cast<void>(resolve_plan({{"(block", ShardStyle::column, "features"}},
                                             kParameters, axes(2), 2));
            }).find("'(block' is not a regular expression"),
            std::string::npos);
}

TEST(Plan, UnknownAxisIsNamed) {
  EXPECT_NE(
      message_of([] {
        static_cast<void>(resolve_plan({{R"(block\.in\.weight)", ShardStyle::column, "heads"}},
                                       kParameters, axes(2), 2));
      }).find("deals along 'heads'"),
      std::string::npos);
}

TEST(Plan, RowStyleOfAVectorIsRefused) {
  EXPECT_THROW(
      static_cast<void>(resolve_plan({{R"(block\.norm\.weight)", ShardStyle::row, "features"}},
                                     kParameters, axes(2), 2)),
      UsageError);
}

TEST(Plan, AxisLargerThanTheParameterIsRefused) {
  EXPECT_THROW(
      static_cast<void>(resolve_plan({{R"(block\.out\.weight)", ShardStyle::column, "features"}},
                                     kParameters, axes(2), 2)),
      UsageError);
}

TEST(Plan, AxisThatLeavesFeaturesToNobodyIsRefused) {
  const PlanAxes narrow{{"features", plan_axis(Partition::even(8, 2))}};
  EXPECT_NE(
      message_of([&] {
        static_cast<void>(resolve_plan({{R"(block\.in\.weight)", ShardStyle::column, "features"}},
                                       kParameters, narrow, 2));
      }).find("deals the 8 features of axis 'features', but block.in.weight [12, 8] has 12"),
      std::string::npos);
}

TEST(Plan, PatternThatTakesTooLongIsNamedInsteadOfSkipped) {
  const std::vector<PlanParameter> parameters{{std::string(64, 'a'), {12, 8}},
                                              {"block.in.weight", {12, 8}}};
  EXPECT_NE(
      message_of([&] {
        static_cast<void>(resolve_plan(
            {{R"((a|aa|a?a)*b|block.*)", ShardStyle::column, "features"}}, parameters, axes(2), 2));
      }).find("cannot be matched"),
      std::string::npos);
}

TEST(Plan, KeyValueHeadsCoverWhatTheQueryHeadsRead) {
  for (const std::int64_t heads : {1, 4, 6, 8, 30, 32, 64}) {
    for (std::int64_t kv_heads = 1; kv_heads <= heads; ++kv_heads) {
      if (heads % kv_heads != 0) continue;
      const std::int64_t group = heads / kv_heads;
      for (int ranks = 1; ranks <= heads && ranks <= 16; ++ranks) {
        const Partition partition = Partition::even(heads, ranks);
        const PlanAxis axis = key_value_axis(partition, heads, kv_heads, 8);
        for (int rank = 0; rank < ranks; ++rank) {
          const auto [begin, end] = axis.ranges[static_cast<std::size_t>(rank)];
          EXPECT_EQ(begin, partition.offset(rank) / group);
          EXPECT_EQ(end, (partition.offset(rank + 1) - 1) / group + 1);
          EXPECT_LE(end, kv_heads);
        }
      }
    }
  }
}

TEST(Plan, WideFeaturesAreDealtInWholePanels) {
  const Partition wide = feature_partition(11008, 3);
  EXPECT_EQ(wide.extent(), 11008);
  for (int rank = 0; rank < 3; ++rank) EXPECT_EQ(wide.share(rank) % 64, 0);
  const Partition narrow = feature_partition(176, 3);
  EXPECT_EQ(narrow.largest_share(), 59);
}

TEST(Plan, FileWithAWrongStyleIsRefusedByNameOfTheField) {
  const std::string path = ::testing::TempDir() + "/plan.json";
  std::ofstream(path) << R"({"rules": [{"pattern": "a", "style": "diagonal"}]})";
  const std::string message = message_of([&] { static_cast<void>(read_plan_rules(path)); });
  EXPECT_NE(message.find(path), std::string::npos);
  EXPECT_NE(message.find("rules[0].style"), std::string::npos);
  std::filesystem::remove(path);
}

TEST(Plan, FileThatHoldsNoRulesIsRefused) {
  const std::string path = ::testing::TempDir() + "/plan.json";
  for (const char* text :
       {"[]", "{}", R"({"rules": 1})", R"({"rules": [1]})", R"({"rules": [{"style": "column"}]})",
        R"({"rules": [{"pattern": "a", "style": "row", "axis": 1}]})"}) {
    std::ofstream(path) << text;
    EXPECT_TRUE(message_of([&] { static_cast<void>(read_plan_rules(path)); }).starts_with(path))
        << text;
  }
  std::filesystem::remove(path);
}

TEST(Plan, FileGivesItsRulesInOrder) {
  const std::string path = ::testing::TempDir() + "/plan.json";
  std::ofstream(path) << R"({"rules": [{"pattern": "a", "style": "column", "axis": "x"},
                                       {"pattern": "b", "style": "replicate"}]})";
  const std::vector<PlanRule> rules = read_plan_rules(path);
  ASSERT_EQ(rules.size(), 2U);
  EXPECT_EQ(rules[0].pattern, "a");
  EXPECT_EQ(rules[0].style, ShardStyle::column);
  EXPECT_EQ(rules[0].axis, "x");
  EXPECT_EQ(rules[1].style, ShardStyle::replicate);
  std::filesystem::remove(path);
}

TEST(Mesh, CoordinatesEnumerateEachCellOnce) {
  const MeshShape shape{.data = 2, .context = 3, .tensor = 4};
  std::vector<int> seen(static_cast<std::size_t>(shape.ranks()), 0);
  for (int rank = 0; rank < shape.ranks(); ++rank) {
    const auto [data, context, tensor] = mesh_coordinates(shape, rank);
    ASSERT_LT(data, 2);
    ASSERT_LT(context, 3);
    ASSERT_LT(tensor, 4);
    seen[static_cast<std::size_t>((data * 3 + context) * 4 + tensor)] += 1;
  }
  for (const int count : seen) EXPECT_EQ(count, 1);
}

TEST(Mesh, ShapeMustHaveAsManyRanksAsTheWorld) {
  const auto world = make_single_communicator();
  EXPECT_THROW(DeviceMesh(*world, {.data = 1, .context = 1, .tensor = 2}), UsageError);
}

}  // namespace
}  // namespace portolan
