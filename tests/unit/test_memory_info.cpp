// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <filesystem>

#include "apps/memory_check.hpp"
#include "core/error.hpp"
#include "core/memory_info.hpp"
#include "parallel/communicator.hpp"
#include "tests/unit/file_testing.hpp"

namespace portolan {
namespace {

namespace fs = std::filesystem;

/// A made-up /proc and /sys.
class AvailableMemory : public ::testing::Test {
 protected:
  void write(const std::string& path, const std::string& text) const {
    const fs::path file = root_ / path;
    fs::create_directories(file.parent_path());
    testing::write_file(file, text);
  }
  [[nodiscard]] std::optional<std::int64_t> available(const std::string& groups) const {
    return available_memory(root_.path(), groups);
  }

  testing::TemporaryFolder root_;
};

TEST_F(AvailableMemory, IsWhatTheSystemEstimates) {
  EXPECT_EQ(available(""), std::nullopt);
  write("proc/meminfo", "MemTotal:  9000 kB\nMemFree:  100 kB\nMemAvailable:    8000 kB\n");
  EXPECT_EQ(available("0::/\n"), 8000 * 1024);
}

TEST_F(AvailableMemory, TheTightestGroupOfVersion2Counts) {
  write("proc/meminfo", "MemAvailable:    8000 kB\n");
  write("sys/fs/cgroup/pods/memory.max", "5000000\n");
  write("sys/fs/cgroup/pods/memory.current", "3000000\n");
  write("sys/fs/cgroup/pods/one/memory.max", "max\n");
  write("sys/fs/cgroup/pods/one/memory.current", "1000\n");
  EXPECT_EQ(available("0::/pods/one\n"), 2000000);
  write("sys/fs/cgroup/pods/memory.stat", "anon 1\ninactive_file 500000\nactive_file 7\n");
  EXPECT_EQ(available("0::/pods/one\n"), 2500000) << "cached files can be dropped";
  write("sys/fs/cgroup/pods/one/memory.max", "1500\n");
  EXPECT_EQ(available("0::/pods/one\n"), 500);
  write("sys/fs/cgroup/pods/one/memory.current", "1600\n");
  EXPECT_EQ(available("0::/pods/one\n"), 0);
  EXPECT_EQ(available("0::/elsewhere\n"), 8000 * 1024);
}

TEST_F(AvailableMemory, GroupsOfVersion1Count) {
  write("sys/fs/cgroup/memory/docker/memory.limit_in_bytes", "4096000");
  write("sys/fs/cgroup/memory/docker/memory.usage_in_bytes", "96000");
  write("sys/fs/cgroup/memory/docker/memory.stat", "inactive_file 5\ntotal_inactive_file 1000\n");
  EXPECT_EQ(available("3:cpu,cpuacct:/docker\n2:memory:/docker\n"), 4001000);
  EXPECT_EQ(available("3:cpu,cpuacct:/docker\n"), std::nullopt);
}

TEST(AvailableMemoryHere, IsBelowThePhysicalMemory) {
  const auto available = available_memory();
  ASSERT_TRUE(available.has_value());
  EXPECT_GT(*available, 0);
  EXPECT_LE(static_cast<std::size_t>(*available), physical_memory());
}

TEST(MemoryCheck, RefusesWhatCannotFitWithTheFigures) {
  const auto world = make_single_communicator();
  const Device host{DeviceKind::serial, 0};
  EXPECT_NO_THROW(require_memory(*world, host, {1 << 20, 1 << 20}));
  constexpr std::int64_t kTooMuch = std::int64_t{1} << 47;
  try {
    require_memory(*world, host, {kTooMuch, 1'000'000'000});
    ADD_FAILURE() << "128 TiB were said to fit";
  } catch (const OutOfMemoryError& error) {
    EXPECT_EQ(error.exit_code(), 1);
    const std::string message = error.what();
    EXPECT_NE(message.find("140738.488 GB ("), std::string::npos) << message;
    EXPECT_NE(message.find("140737.488 GB of weights"), std::string::npos) << message;
    EXPECT_NE(message.find("1.000 GB of activations"), std::string::npos) << message;
  }
  EXPECT_THROW(require_memory(*world, host, {0, kTooMuch}), OutOfMemoryError);
  EXPECT_THROW(require_memory(*world, host, {.cache = kTooMuch}), OutOfMemoryError);
}

}  // namespace
}  // namespace portolan
