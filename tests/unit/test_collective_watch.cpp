// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <future>
#include <string>
#include <thread>

#include "parallel/collective_watch.hpp"

namespace portolan {
namespace {

using std::chrono::milliseconds;

// How long this waits for what is sure to come, on a machine however busy.
constexpr std::chrono::minutes kPatience{5};

TEST(CollectiveWatch, ReportsTheCollectiveThatDoesNotEnd) {
  std::promise<std::string> lost;
  std::atomic<bool> first_has_ended = false;
  CollectiveWatch watch(milliseconds(50),
                        [&](const std::string& reason) { lost.set_value(reason); });
  watch.started("all_gather", [&] { return first_has_ended.exchange(true); });
  watch.started("all_reduce", [] { return false; });
  std::future<std::string> reason = lost.get_future();
  ASSERT_EQ(reason.wait_for(kPatience), std::future_status::ready);
  EXPECT_EQ(reason.get(), "all_reduce did not end within 0.05 s");
}

TEST(CollectiveWatch, CountsFromTheEndOfTheOneBefore) {
  // Each takes a quarter of the deadline, all together longer than it.
  constexpr milliseconds kDeadline{2'000};
  constexpr int kCollectives = 6;
  std::atomic<int> lost = 0;
  std::atomic<int> ended = 0;
  {
    CollectiveWatch watch(kDeadline, [&](const std::string&) { ++lost; });
    for (int i = 0; i < kCollectives; ++i) {
      watch.started("broadcast", [&ended, i] { return ended > i; });
    }
    for (int i = 0; i < kCollectives; ++i) {
      std::this_thread::sleep_for(kDeadline / 4);
      ++ended;
    }
  }
  EXPECT_EQ(lost, 0);
}

TEST(CollectiveWatch, EndsWhileACollectiveIsUnderWay) {
  const auto start = std::chrono::steady_clock::now();
  std::atomic<int> lost = 0;
  {
    CollectiveWatch watch(kPatience, [&](const std::string&) { ++lost; });
    watch.started("all_reduce", [] { return false; });
  }
  EXPECT_EQ(lost, 0);
  EXPECT_LT(std::chrono::steady_clock::now() - start, kPatience / 2);
}

}  // namespace
}  // namespace portolan
