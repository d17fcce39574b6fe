// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <vector>

#include "core/error.hpp"
#include "runtime/gpu_mapping.hpp"

namespace portolan {
namespace {

namespace fs = std::filesystem;
using Gpus = std::vector<int>;

Gpus dealt(const std::vector<int>& rank_nodes, const std::vector<int>& gpu_nodes) {
  return deal_gpus(rank_nodes, gpu_nodes);
}

TEST(GpuMapping, RanksGetGpusOfTheirOwnNode) {
  EXPECT_EQ(dealt({0, 0, 1, 1}, {0, 0, 1, 1}), (Gpus{0, 1, 2, 3}));
  EXPECT_EQ(dealt({0, 0, 1, 1}, {1, 1, 0, 0}), (Gpus{2, 3, 0, 1}));
  EXPECT_EQ(dealt({0, 1, 0, 1}, {1, 0, 1, 0}), (Gpus{1, 0, 3, 2}));
  EXPECT_EQ(dealt({0, 1}, {0, 0, 0, 0, 1, 1, 1, 1}), (Gpus{0, 4}));
}

TEST(GpuMapping, WhoFindsNoneThereGetsOneThatIsLeft) {
  // The third rank's node has none; the first two are served before it.
  EXPECT_EQ(dealt({2, 1, 0}, {0, 1, 0}), (Gpus{2, 1, 0}));
  EXPECT_EQ(dealt({0, 0, 0}, {0, 1, 1}), (Gpus{0, 1, 2}));
}

TEST(GpuMapping, WithoutKnownNodesRanksTakeThemInTurn) {
  EXPECT_EQ(dealt({0, 0, 1, 1}, {-1, -1}), (Gpus{0, 1, 0, 1}));
  EXPECT_EQ(dealt({-1, -1, -1}, {0, 1}), (Gpus{0, 1, 0}));
  EXPECT_EQ(dealt({-1}, {-1, -1}), Gpus{0});
}

TEST(GpuMapping, RanksThatShareGpusShareThemEvenly) {
  EXPECT_EQ(dealt({0, 0, 1, 1}, {0, 1}), (Gpus{0, 0, 1, 1}));
  EXPECT_EQ(dealt({0, 0, 0, 0, 1, 1}, {0, 1}), (Gpus{0, 0, 0, 1, 1, 1}));
  EXPECT_EQ(dealt({0, 1, 1, 0, 0}, {1, 0}), (Gpus{1, 0, 0, 1, 1}));
}

TEST(GpuMapping, NoGpuCanBeDealt) { EXPECT_THROW((void)dealt({0}, {}), UsageError); }

TEST(GpuMapping, ADevicesNodeIsThatOfTheSocketItHangsOn) {
  const fs::path machine = fs::path(PORTOLAN_TEST_DATA) / "topology" / "two_sockets_four_gpus.xml";
  const std::vector<std::string> buses{"0000:ab:00.0", "0000:3b:00.0", "0000:5E:00.0",
                                       "0000:e0:00.0", "0000:77:00.0", "no bus"};
  // The fourth hangs on both sockets alike, the fifth is not there.
  EXPECT_EQ(numa_nodes_of_pci_devices(buses, machine), (Gpus{1, 0, 0, -1, -1, -1}));
  EXPECT_THROW((void)numa_nodes_of_pci_devices(buses, "absent.xml"), InputError);
}

TEST(GpuMapping, ThisMachinesBusesCanBeAskedFor) {
  const std::vector<std::string> buses{"ffff:ff:1f.7"};
  EXPECT_EQ(numa_nodes_of_pci_devices(buses), Gpus{-1});
}

}  // namespace
}  // namespace portolan
