// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <chrono>

#include "core/error.hpp"
#include "parallel/link_emulation.hpp"

namespace portolan {
namespace {

TEST(LinkEmulation, ReadsBandwidthAndLatencyInEveryUnit) {
  const LinkEmulation link = LinkEmulation::parse("bandwidth=12.5GB/s,latency=5us");
  EXPECT_DOUBLE_EQ(link.bytes_per_second, 12.5e9);
  EXPECT_DOUBLE_EQ(link.latency_seconds, 5e-6);
  EXPECT_DOUBLE_EQ(LinkEmulation::parse("bandwidth=3B/s").bytes_per_second, 3.0);
  EXPECT_DOUBLE_EQ(LinkEmulation::parse("bandwidth=3kB/s").bytes_per_second, 3e3);
  EXPECT_DOUBLE_EQ(LinkEmulation::parse("bandwidth=3MB/s").bytes_per_second, 3e6);
  EXPECT_DOUBLE_EQ(LinkEmulation::parse("latency=2s").latency_seconds, 2.0);
  EXPECT_DOUBLE_EQ(LinkEmulation::parse("latency=2ms").latency_seconds, 2e-3);
  EXPECT_DOUBLE_EQ(LinkEmulation::parse("latency=2ns").latency_seconds, 2e-9);
}

TEST(LinkEmulation, WritesWhatItReads) {
  for (const char* text : {"bandwidth=12.5GB/s,latency=5us", "bandwidth=0.25GB/s", "latency=7us",
                           "bandwidth=0.2GB/s,latency=50us"}) {
    EXPECT_EQ(LinkEmulation::parse(text).to_string(), text);
  }
  EXPECT_EQ(LinkEmulation().to_string(), "");
}

TEST(LinkEmulation, RefusesWhatIsNoLink) {
  for (const char* text :
       {"", "fast", "bandwidth=", "bandwidth=12", "bandwidth=-1GB/s", "bandwidth=0GB/s",
        "bandwidth=nanGB/s", "bandwidth=infGB/s", "latency=5", "latency=5us,",
        "latency=5us,latency=5us", "bandwidth=1GB/s;latency=5us", "latency=1 us"}) {
    EXPECT_THROW(static_cast<void>(LinkEmulation::parse(text)), UsageError) << text;
  }
}

TEST(LinkEmulation, TakesLatencyForEachMessageAndTimeForTheBytes) {
  const LinkEmulation link{.bytes_per_second = 1e9, .latency_seconds = 1e-3};
  EXPECT_DOUBLE_EQ(link.seconds(3, 2'000'000), 3e-3 + 2e-3);
  EXPECT_DOUBLE_EQ(LinkEmulation{.latency_seconds = 1e-3}.seconds(2, 1'000'000), 2e-3);
  EXPECT_FALSE(LinkEmulation().active());
}

TEST(LinkEmulation, WaitingEndsNotBeforeItsTime) {
  for (const double seconds : {1e-5, 1e-3, 5e-3}) {
    const auto start = std::chrono::steady_clock::now();
    wait_until(start, seconds);
    const std::chrono::duration<double> waited = std::chrono::steady_clock::now() - start;
    EXPECT_GE(waited.count(), seconds);
  }
}

}  // namespace
}  // namespace portolan
