// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "parallel/gather_values.hpp"

namespace portolan {
namespace {

TEST(GatherValues, KeepsEveryBit) {
  const auto single = make_single_communicator();
  for (const double value :
       {0.1, -1e300, 5e-324, std::numeric_limits<double>::infinity(), 9007199254740993.0, -0.0}) {
    const std::vector<double> values = gather_values(*single, value);
    ASSERT_EQ(values.size(), 1U);
    EXPECT_EQ(values[0], value);
    EXPECT_EQ(std::signbit(values[0]), std::signbit(value));
    EXPECT_EQ(largest_value(*single, value), value);
  }
}

TEST(GatherValues, TextsKeepEveryByte) {
  const auto single = make_single_communicator();
  const std::string text("a\0\xff z", 5);
  EXPECT_EQ(gather_texts(*single, text), std::vector<std::string>{text});
  EXPECT_EQ(gather_texts(*single, ""), std::vector<std::string>{""});
}

}  // namespace
}  // namespace portolan
