// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>
#include <sched.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <thread>

#include "core/error.hpp"
#include "runtime/cpu_limits.hpp"
#include "runtime/topology.hpp"

namespace portolan {
namespace {

namespace fs = std::filesystem;

TEST(Topology, TwoSocketsWithSmt) {
  const Topology topology =
      Topology::synthetic("package:2 [numa(memory=1000000000)] l3:1 core:40 pu:2");
  EXPECT_EQ(topology.packages(), 2);
  EXPECT_EQ(topology.cores().size(), 80U);
  EXPECT_EQ(topology.processing_units(), 160);
  EXPECT_EQ(topology.threads_per_core(), 2);
  EXPECT_EQ(topology.machine_cores(), 80);
  EXPECT_FALSE(topology.is_this_machine());
  EXPECT_EQ(topology.mask(), "0-159");
  ASSERT_EQ(topology.numa_domains().size(), 2U);
  const NumaDomain& second = topology.numa_domains()[1];
  EXPECT_EQ(second.package, 1);
  EXPECT_EQ(second.nodes, std::vector{1});
  EXPECT_EQ(second.first_core, 40);
  EXPECT_EQ(second.cores, 40);
  EXPECT_GT(second.memory_bytes, 0);
  EXPECT_EQ(topology.cores()[41].numa_domain, 1);
  EXPECT_EQ(topology.cores()[41].package, 1);
  EXPECT_EQ(topology.cores()[41].processing_units, (std::vector{82, 83}));
}

TEST(Topology, SubNumaClusters) {
  const Topology topology = Topology::synthetic("package:2 group:2 [numa] core:4 pu:2");
  ASSERT_EQ(topology.numa_domains().size(), 4U);
  EXPECT_EQ(topology.numa_domains()[3].package, 1);
  EXPECT_EQ(topology.numa_domains()[3].nodes, std::vector{3});
}

TEST(Topology, TwoKindsOfMemoryNearTheSameCoresAreOneDomain) {
  const Topology topology = Topology::synthetic("package:2 [numa] [numa] core:4 pu:1");
  ASSERT_EQ(topology.numa_domains().size(), 2U);
  EXPECT_EQ(topology.numa_domains()[0].nodes.size(), 2U);
  EXPECT_EQ(topology.numa_domains()[0].cores, 4);
}

TEST(Topology, MemoryOfTheWholeMachineIsNotNearest) {
  const Topology topology = Topology::synthetic("[numa] package:2 [numa] core:4 pu:1");
  ASSERT_EQ(topology.numa_domains().size(), 2U);
  EXPECT_EQ(topology.numa_domains()[0].nodes.size(), 1U);
  EXPECT_NE(topology.numa_domains()[0].nodes, topology.numa_domains()[1].nodes);
}

TEST(Topology, RestrictionKeepsNumbersOfTheMachine) {
  const Topology machine = Topology::synthetic("package:2 [numa] core:4 pu:2");
  const Topology topology = machine.restricted_to("3,8-11");
  EXPECT_EQ(topology.mask(), "3,8-11");
  EXPECT_EQ(topology.machine_cores(), 8);
  ASSERT_EQ(topology.cores().size(), 3U);
  EXPECT_EQ(topology.cores()[0].processing_units, std::vector{3});
  EXPECT_EQ(topology.cores()[2].processing_units, (std::vector{10, 11}));
  ASSERT_EQ(topology.numa_domains().size(), 2U);
  EXPECT_EQ(topology.numa_domains()[1].nodes, std::vector{1});
  // Down to one socket: the other's memory remains usable, but is nobody's domain.
  const Topology socket = machine.restricted_to("8-15");
  ASSERT_EQ(socket.numa_domains().size(), 1U);
  EXPECT_EQ(socket.numa_domains()[0].nodes, std::vector{1});
  EXPECT_EQ(socket.memory_bytes(), machine.memory_bytes());
  for (const char* senseless : {"", "16", "0-99", "a", "1;2"}) {
    EXPECT_THROW((void)machine.restricted_to(senseless), UsageError) << senseless;
  }
}

TEST(Topology, Summary) {
  const Topology topology = Topology::synthetic("package:2 [numa(memory=1000000000)] core:4 pu:2");
  EXPECT_EQ(topology.summary(), "2 packages, 2 NUMA domains, 8 cores, 16 processing units, 2.0 GB");
  EXPECT_EQ(topology.restricted_to("0").summary(),
            "1 package, 1 NUMA domain, 1 core, 1 processing unit, 2.0 GB (of the machine's 8 "
            "cores)");
}

TEST(Topology, Json) {
  const auto json =
      Topology::synthetic("package:1 [numa(memory=1000000000)] core:2 pu:2").to_json();
  EXPECT_EQ(json.dump(),
            R"({"packages":1,"numa_domains":[{"package":0,"nodes":[0],"cores":2,)"
            R"("processing_units":"0-3","memory_bytes":1000000000}],"cores":2,"machine_cores":2,)"
            R"("processing_units":4,"threads_per_core":2,"memory_bytes":1000000000,"mask":"0-3"})");
}

TEST(Topology, Xml) {
  const Topology topology =
      Topology::from_xml(fs::path(PORTOLAN_TEST_DATA) / "topology" / "two_sockets.xml");
  EXPECT_EQ(topology.summary(), "2 packages, 2 NUMA domains, 4 cores, 8 processing units, 34.4 GB");
  // Siblings numbered as Linux does: after all the first processing units.
  EXPECT_EQ(topology.cores()[1].processing_units, (std::vector{1, 5}));
}

TEST(Topology, RefusesBadSources) {
  EXPECT_THROW((void)Topology::synthetic("nonsense:2"), UsageError);
  EXPECT_THROW((void)Topology::from_xml("absent.xml"), InputError);
  const fs::path file = fs::path(testing::TempDir()) / "not_a_topology.xml";
  std::ofstream(file) << "<html></html>";
  EXPECT_THROW((void)Topology::from_xml(file), InputError);
}

TEST(Topology, DetectRespectsTheAffinityMask) {
  unsetenv("OMPI_MCA_orte_bound_at_launch");  // the exception for mpirun's default
  const Topology all = Topology::detect();
  EXPECT_TRUE(all.is_this_machine());
  EXPECT_GT(all.memory_bytes(), 0);
  EXPECT_GE(all.machine_cores(), static_cast<int>(all.cores().size()));
  const int unit = all.cores().back().processing_units.back();
  std::string mask;
  std::thread([&] {
    cpu_set_t only;
    CPU_ZERO(&only);
    CPU_SET(unit, &only);
    if (sched_setaffinity(0, sizeof only, &only) == 0) mask = Topology::detect().mask();
  }).join();
  EXPECT_EQ(mask, std::to_string(unit));
  EXPECT_EQ(Topology::detect(mask).mask(), mask);
  EXPECT_THROW((void)Topology::detect("all"), UsageError);
}

TEST(IndexList, JoinsRanges) {
  EXPECT_EQ(index_list(std::vector<int>{}), "");
  EXPECT_EQ(index_list(std::vector{5, 3, 1, 2, 5}), "1-3,5");
}

class CpuQuota : public testing::Test {
 protected:
  void SetUp() override {
    root_ = fs::path(testing::TempDir()) / ("cpu_quota_" + std::to_string(getpid()));
    fs::remove_all(root_);
  }
  void TearDown() override { fs::remove_all(root_); }

  void write(const std::string& path, const std::string& text) const {
    const fs::path file = root_ / "sys/fs/cgroup" / path;
    fs::create_directories(file.parent_path());
    std::ofstream(file) << text << '\n';
  }

  fs::path root_;
};

TEST_F(CpuQuota, VersionTwoTakesTheTightestAncestor) {
  write("pods/cpu.max", "250000 100000");
  write("pods/one/cpu.max", "max 100000");
  EXPECT_EQ(cpu_quota(root_, "0::/pods/one\n"), 2.5);
  write("pods/one/cpu.max", "50000 100000");
  EXPECT_EQ(cpu_quota(root_, "0::/pods/one\n"), 0.5);
  write("pods/one/cpu.max", "300000 100000");
  EXPECT_EQ(cpu_quota(root_, "0::/pods/one\n"), 2.5);
  EXPECT_EQ(cpu_quota(root_, "0::/elsewhere\n"), std::nullopt);
}

TEST_F(CpuQuota, VersionTwoOfAContainerIsAtTheRoot) {
  write("cpu.max", "400000 100000");
  EXPECT_EQ(cpu_quota(root_, "0::/\n"), 4.0);
}

TEST_F(CpuQuota, VersionOne) {
  write("cpu,cpuacct/docker/cpu.cfs_quota_us", "150000");
  write("cpu,cpuacct/docker/cpu.cfs_period_us", "100000");
  const char* groups = "4:memory:/docker\n3:cpu,cpuacct:/docker\n2:cpuset:/docker\n0::/\n";
  EXPECT_EQ(cpu_quota(root_, groups), 1.5);
  write("cpu,cpuacct/docker/cpu.cfs_quota_us", "-1");
  EXPECT_EQ(cpu_quota(root_, groups), std::nullopt);
}

TEST_F(CpuQuota, NoGroups) {
  EXPECT_EQ(cpu_quota(root_, ""), std::nullopt);
  EXPECT_EQ(cpu_quota(root_, "garbage\n1:\n"), std::nullopt);
}

TEST(LauncherBinding, DefaultOfOpenMpiIsToldFromTheUsersWish) {
  using Environment = std::vector<std::string>;
  const std::string bound = "OMPI_MCA_orte_bound_at_launch=1";
  EXPECT_TRUE(bound_by_default_of_launcher(Environment{"HOME=/", bound}));
  EXPECT_TRUE(
      bound_by_default_of_launcher(Environment{bound, "OMPI_MCA_rmaps_base_oversubscribe=1"}));
  EXPECT_FALSE(bound_by_default_of_launcher(Environment{}));
  EXPECT_FALSE(
      bound_by_default_of_launcher(Environment{bound, "OMPI_MCA_hwloc_base_binding_policy=core"}));
  EXPECT_FALSE(bound_by_default_of_launcher(
      Environment{"OMPI_MCA_rmaps_base_mapping_policy=slot:PE=4", bound}));
  EXPECT_FALSE(bound_by_default_of_launcher(Environment{bound, "OMPI_MCA_hwloc_base_cpu_set=0,1"}));
}

}  // namespace
}  // namespace portolan
