// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "core/error.hpp"
#include "parallel/partition.hpp"
#include "parallel/pieces.hpp"

namespace portolan {
namespace {

TEST(Partition, EvenSharesDifferByAtMostOneUnit) {
  for (const std::int64_t extent : {0, 1, 5, 64, 1000, 1001}) {
    for (const int parts : {1, 2, 3, 7, 64}) {
      const Partition partition = Partition::even(extent, parts);
      ASSERT_EQ(partition.parts(), parts);
      EXPECT_EQ(partition.extent(), extent);
      EXPECT_EQ(partition.offset(0), 0);
      for (int part = 0; part < parts; ++part) {
        EXPECT_EQ(partition.offset(part) + partition.share(part), partition.offset(part + 1));
        EXPECT_EQ(partition.share(part), extent / parts + (part < extent % parts ? 1 : 0));
      }
      EXPECT_EQ(partition.largest_share(), (extent + parts - 1) / parts);
    }
  }
}

TEST(Partition, UnitsStayWholeExceptAtTheEnd) {
  const Partition partition = Partition::even(1000, 3, 64);
  EXPECT_EQ(partition, Partition({384, 320, 296}));
  EXPECT_EQ(Partition::even(100, 4, 64), Partition({64, 36, 0, 0}));
}

TEST(Partition, ExplicitSharesMayBeEmpty) {
  const Partition partition({0, 5, 0, 2});
  EXPECT_EQ(partition.parts(), 4);
  EXPECT_EQ(partition.extent(), 7);
  EXPECT_EQ(partition.offset(3), 5);
  EXPECT_EQ(partition.share(2), 0);
  EXPECT_EQ(partition.largest_share(), 5);
  EXPECT_EQ(Partition().parts(), 0);
  EXPECT_EQ(Partition().largest_share(), 0);
}

TEST(Partition, RefusesWhatIsNone) {
  EXPECT_THROW(Partition({3, -1}), UsageError);
  EXPECT_THROW((void)Partition::even(-1, 2), UsageError);
  EXPECT_THROW((void)Partition::even(4, 0), UsageError);
  EXPECT_THROW((void)Partition::even(4, 2, 0), UsageError);
}

TEST(Pieces, CoverEachPartOnceWhateverTheChunks) {
  // [3, 7, 5 bytes] along the middle dimension.
  const PartitionedLayout layout{.outer = 3, .inner_bytes = 5};
  const Partition partition({2, 0, 4, 1});
  EXPECT_EQ(full_bytes(layout, partition), 3 * 7 * 5);
  for (const std::int64_t chunk : {1, 4, 10, 13, 1000}) {
    std::vector<int> owner(static_cast<std::size_t>(full_bytes(layout, partition)), -1);
    for (int part = 0; part < partition.parts(); ++part) {
      const std::int64_t bytes = part_bytes(layout, partition, part);
      std::int64_t next = 0;
      for (std::int64_t begin = 0; begin < bytes; begin += chunk) {
        for_each_piece(layout, partition, part, begin, std::min(bytes, begin + chunk),
                       [&](std::int64_t in_full, std::int64_t in_part, std::int64_t count) {
                         EXPECT_EQ(in_part, next);
                         next += count;
                         for (std::int64_t i = 0; i < count; ++i) {
                           EXPECT_EQ(owner.at(static_cast<std::size_t>(in_full + i)), -1);
                           owner.at(static_cast<std::size_t>(in_full + i)) = part;
                           // Where that byte of the dense part belongs.
                           const std::int64_t row = partition.share(part) * 5;
                           EXPECT_EQ(in_full + i, (in_part + i) / row * 35 +
                                                      partition.offset(part) * 5 +
                                                      (in_part + i) % row);
                         }
                       });
      }
      EXPECT_EQ(next, bytes);
    }
    EXPECT_EQ(std::count(owner.begin(), owner.end(), -1), 0);
  }
}

}  // namespace
}  // namespace portolan
