// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "parallel/sequence_sharding.hpp"

namespace portolan {
namespace {

TEST(SequenceSharding, RunsOfAllRanksCoverTheSequenceOnce) {
  for (const std::int64_t length : {1, 2, 5, 7, 8, 64, 257, 6998}) {
    for (int ranks = 1; ranks <= 5; ++ranks) {
      const SequenceSharding sharding(length, ranks);
      std::vector<int> seen(static_cast<std::size_t>(length), 0);
      for (int rank = 0; rank < ranks; ++rank) {
        std::int64_t tokens = 0;
        for (const TokenRun& run : sharding.runs(rank)) {
          tokens += run.length;
          for (std::int64_t t = 0; t < run.length; ++t) {
            seen[static_cast<std::size_t>(run.position + t)] += 1;
          }
        }
        EXPECT_EQ(tokens, sharding.local_tokens(rank));
        EXPECT_LE(tokens, sharding.largest_local_tokens());
      }
      for (const int count : seen) EXPECT_EQ(count, 1);
    }
  }
}

TEST(SequenceSharding, ZigzagBalancesTheScoresOfACausalMask) {
  const SequenceSharding sharding(6998, 4);
  std::int64_t least = INT64_MAX;
  std::int64_t most = 0;
  for (int rank = 0; rank < 4; ++rank) {
    std::int64_t scores = 0;
    for (const TokenRun& run : sharding.runs(rank)) {
      for (std::int64_t t = 0; t < run.length; ++t) scores += run.position + t + 1;
    }
    least = std::min(least, scores);
    most = std::max(most, scores);
  }
  EXPECT_LE(static_cast<double>(most - least), 0.05 * static_cast<double>(most));
}

}  // namespace
}  // namespace portolan
