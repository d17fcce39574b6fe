// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <set>

#include "core/error.hpp"
#include "runtime/placement.hpp"

namespace portolan {
namespace {

/// Synthetic topologies, numbered here core by core: core i has processing units 2i and 2i+1 where
/// there is SMT.
Topology small_desktop() { return Topology::synthetic("package:1 l3:1 core:2 pu:1"); }
Topology two_sockets() { return Topology::synthetic("package:2 [numa] l3:1 core:40 pu:2"); }
Topology clustered() { return Topology::synthetic("package:2 group:2 [numa] core:4 pu:2"); }
Topology two_domains_of_four() { return Topology::synthetic("package:2 [numa] core:4 pu:1"); }

std::vector<int> range(int begin, int end) {
  std::vector<int> values;
  for (int i = begin; i < end; ++i) values.push_back(i);
  return values;
}

std::vector<int> threads_of(const std::vector<Placement>& placements) {
  std::vector<int> threads;
  for (const Placement& placement : placements) threads.push_back(placement.threads);
  return threads;
}

std::vector<std::string> bindings(const Topology& topology,
                                  const std::vector<Placement>& placements) {
  std::vector<std::string> texts;
  for (const Placement& placement : placements) {
    texts.push_back(binding_string(topology, placement));
  }
  return texts;
}

using Texts = std::vector<std::string>;

TEST(Placement, OneRankTakesAllCores) {
  const Topology topology = small_desktop();
  const Placement placement = plan_placement(topology, 0, 1);
  EXPECT_EQ(placement.threads, 2);
  EXPECT_EQ(placement.cores, range(0, 2));
  EXPECT_EQ(placement.thread_units, range(0, 2));
  EXPECT_EQ(placement.numa_nodes, std::vector{0});
  EXPECT_EQ(placement.sharing, CoreSharing::none);
  EXPECT_TRUE(placement.warning.empty());
  EXPECT_TRUE(placement.pin_threads);
  EXPECT_EQ(binding_string(topology, placement), "cores 0-1 (NUMA 0)");
}

TEST(Placement, RanksEqualCores) {
  const Topology topology = small_desktop();
  EXPECT_EQ(bindings(topology, plan_node(topology, 2)),
            (Texts{"core 0 (NUMA 0)", "core 1 (NUMA 0)"}));
}

TEST(Placement, OneRankPerSocketUsesOneProcessingUnitOfEachCore) {
  const Topology topology = two_sockets();
  const auto placements = plan_node(topology, 2);
  ASSERT_EQ(threads_of(placements), (std::vector{40, 40}));
  EXPECT_EQ(placements[0].cores, range(0, 40));
  EXPECT_EQ(placements[1].cores, range(40, 80));
  EXPECT_EQ(placements[0].numa_nodes, std::vector{0});
  EXPECT_EQ(placements[1].numa_nodes, std::vector{1});
  for (int thread = 0; thread < 40; ++thread) {
    EXPECT_EQ(placements[0].thread_units[static_cast<std::size_t>(thread)], 2 * thread);
    EXPECT_EQ(placements[1].thread_units[static_cast<std::size_t>(thread)], 80 + 2 * thread);
  }
  EXPECT_EQ(placements[0].sharing, CoreSharing::none);
}

TEST(Placement, OneRankSpansBothSockets) {
  const auto placements = plan_node(two_sockets(), 1);
  EXPECT_EQ(placements[0].threads, 80);
  EXPECT_EQ(placements[0].numa_nodes, (std::vector{0, 1}));
}

TEST(Placement, FewThreadsStayInOneDomain) {
  const Placement placement = plan_placement(two_sockets(), 0, 1, 8);
  EXPECT_EQ(placement.threads, 8);
  EXPECT_EQ(placement.numa_nodes, std::vector{0});
}

TEST(Placement, MoreRanksThanDomainsDivideThem) {
  const Topology topology = two_domains_of_four();
  EXPECT_EQ(bindings(topology, plan_node(topology, 4)),
            (Texts{"cores 0-1 (NUMA 0)", "cores 2-3 (NUMA 0)", "cores 4-5 (NUMA 1)",
                   "cores 6-7 (NUMA 1)"}));
}

TEST(Placement, ThreeRanksOnTwoDomainsCrossNone) {
  const Topology topology = two_domains_of_four();
  EXPECT_EQ(bindings(topology, plan_node(topology, 3)),
            (Texts{"cores 0-1 (NUMA 0)", "cores 2-3 (NUMA 0)", "cores 4-7 (NUMA 1)"}));
  EXPECT_EQ(bindings(topology, plan_node(topology, 3, 2)),
            (Texts{"cores 0-1 (NUMA 0)", "cores 2-3 (NUMA 0)", "cores 4-5 (NUMA 1)"}));
}

TEST(Placement, UnevenSharesOfOneDomain) {
  const auto placements = plan_node(Topology::synthetic("core:7 pu:1"), 3);
  EXPECT_EQ(threads_of(placements), (std::vector{2, 2, 3}));
}

TEST(Placement, FewerRanksThanDomainsTakeWholeDomains) {
  const Topology topology = clustered();
  const auto two = plan_node(topology, 2);
  EXPECT_EQ(two[0].cores, range(0, 8));
  EXPECT_EQ(two[0].numa_nodes, (std::vector{0, 1}));
  EXPECT_EQ(two[1].cores, range(8, 16));
  EXPECT_EQ(two[1].numa_nodes, (std::vector{2, 3}));
  const auto three = plan_node(topology, 3);
  EXPECT_EQ(threads_of(three), (std::vector{4, 8, 4}));
  const auto four = plan_node(topology, 4);
  for (std::size_t rank = 0; rank < 4; ++rank) {
    EXPECT_EQ(four[rank].numa_nodes, std::vector{static_cast<int>(rank)});
    EXPECT_EQ(four[rank].threads, 4);
  }
}

TEST(Placement, EveryRankFindsADomainHoweverUnevenTheyAre) {
  const Topology topology =
      Topology::synthetic("package:4 [numa] core:8 pu:1").restricted_to("0,8,16,24-31");
  EXPECT_EQ(threads_of(plan_node(topology, 3)), (std::vector{2, 1, 8}));
}

TEST(Placement, CrossesABorderOnlyWhenThreadsFitNoOtherWay) {
  // 3 ranks x 4 threads fill 12 cores: with 6 cores per domain, the middle rank must cross.
  const Topology topology = Topology::synthetic("package:2 [numa] core:6 pu:1");
  const auto crossing = plan_node(topology, 3, 4);
  EXPECT_EQ(bindings(topology, crossing),
            (Texts{"cores 0-3 (NUMA 0)", "cores 4-7 (NUMA 0-1)", "cores 8-11 (NUMA 1)"}));
  EXPECT_EQ(crossing[0].sharing, CoreSharing::none);
  // 3 ranks x 3 threads fit in twos and ones.
  for (const Placement& placement : plan_node(topology, 3, 3)) {
    EXPECT_EQ(placement.numa_nodes.size(), 1U);
  }
  // 2 ranks x 6 threads on 3 domains of 4: groups of whole domains would be 4 and 8 cores.
  const auto halves = plan_node(Topology::synthetic("package:3 [numa] core:4 pu:1"), 2, 6);
  EXPECT_EQ(halves[0].cores, range(0, 6));
  EXPECT_EQ(halves[1].cores, range(6, 12));
}

TEST(Placement, SiblingsOnlyWhenCoresRunOut) {
  const Topology topology = two_sockets();
  const auto placements = plan_node(topology, 2, 80);
  EXPECT_EQ(placements[0].sharing, CoreSharing::smt_siblings);
  EXPECT_TRUE(placements[0].pin_threads);
  EXPECT_EQ(placements[0].warning,
            "2 ranks x 80 threads on 80 cores: threads share cores as SMT siblings, which rarely "
            "computes faster");
  std::vector<int> units = placements[1].thread_units;
  EXPECT_EQ(units[0], 80);
  EXPECT_EQ(units[40], 81);  // siblings after all the first units
  std::sort(units.begin(), units.end());
  EXPECT_EQ(units, range(80, 160));
  EXPECT_EQ(plan_node(topology, 2, 41)[0].sharing, CoreSharing::smt_siblings);
}

TEST(Placement, RanksThatShareACoreGetDifferentSiblings) {
  const auto placements = plan_node(Topology::synthetic("core:2 pu:2"), 4);
  EXPECT_EQ(placements[0].thread_units, std::vector{0});
  EXPECT_EQ(placements[1].thread_units, std::vector{1});
  EXPECT_EQ(placements[2].thread_units, std::vector{2});
  EXPECT_EQ(placements[3].thread_units, std::vector{3});
  EXPECT_EQ(placements[0].sharing, CoreSharing::smt_siblings);
}

TEST(Placement, OversubscriptionIsReportedAndNotPinned) {
  const Topology topology = small_desktop();
  const auto placements = plan_node(topology, 4);
  for (const Placement& placement : placements) {
    EXPECT_EQ(placement.threads, 1);
    EXPECT_EQ(placement.sharing, CoreSharing::oversubscribed);
    EXPECT_FALSE(placement.pin_threads);
    EXPECT_EQ(placement.warning,
              "4 ranks x 1 thread on 2 cores: threads take turns on the cores, and times say "
              "little");
  }
  EXPECT_EQ(bindings(topology, placements),
            (Texts{"core 0, oversubscribed (NUMA 0)", "core 0, oversubscribed (NUMA 0)",
                   "core 1, oversubscribed (NUMA 0)", "core 1, oversubscribed (NUMA 0)"}));
  EXPECT_EQ(plan_placement(topology, 0, 1, 3).sharing, CoreSharing::oversubscribed);
}

TEST(Placement, PolicyLimitsChosenThreads) {
  const Topology topology = two_domains_of_four();
  EXPECT_EQ(plan_placement(topology, 0, 2, 0, {.spare_cores = 1}).threads, 3);
  EXPECT_EQ(plan_placement(topology, 0, 2, 0, {.spare_cores = 9}).threads, 1);
  EXPECT_EQ(plan_placement(topology, 0, 2, 0, {.max_threads = 2}).threads, 2);
  EXPECT_EQ(plan_placement(topology, 0, 2, 4, {.spare_cores = 1, .max_threads = 2}).threads, 4);
  const Placement loose = plan_placement(topology, 1, 2, 2, {.pin_threads = false});
  EXPECT_FALSE(loose.pin_threads);
  EXPECT_EQ(binding_string(topology, loose), "cores 4-7 (NUMA 1)");
}

TEST(Placement, KeepsWithinRestrictedProcessingUnits) {
  // A mask that spares the first two cores of each socket and one sibling.
  const Topology topology = two_sockets().restricted_to("4-6,8-9,84-87");
  const auto placements = plan_node(topology, 2);
  EXPECT_EQ(placements[0].thread_units, (std::vector{4, 6, 8}));
  EXPECT_EQ(placements[1].thread_units, (std::vector{84, 86}));
  // The core with one processing unit is not given a second thread before the others are.
  const Placement crowded = plan_placement(topology.restricted_to("4-6,8-9"), 0, 1, 5);
  EXPECT_EQ(crowded.thread_units, (std::vector{4, 6, 8, 5, 9}));
  EXPECT_EQ(crowded.sharing, CoreSharing::smt_siblings);
}

TEST(Placement, ADomainWithFewCoresIsLeftRatherThanStarvingItsRank) {
  const Topology topology = two_domains_of_four().restricted_to("0,4-7");
  EXPECT_EQ(threads_of(plan_node(topology, 2)), (std::vector{2, 2}));
  EXPECT_EQ(threads_of(plan_node(two_domains_of_four().restricted_to("0-1,4-7"), 2)),
            (std::vector{2, 4}));
  EXPECT_EQ(threads_of(plan_node(two_domains_of_four().restricted_to("0-5"), 2)),
            (std::vector{4, 2}));
}

TEST(Placement, DomainWithoutAllowedMemoryIsNamedWithoutNode) {
  Placement placement = plan_placement(small_desktop(), 0, 1);
  placement.numa_nodes.clear();
  EXPECT_EQ(binding_string(small_desktop(), placement), "cores 0-1");
}

TEST(Placement, RefusesSenselessRequests) {
  const Topology topology = small_desktop();
  EXPECT_THROW((void)plan_node(topology, 0), UsageError);
  EXPECT_THROW((void)plan_node(topology, 1, -1), UsageError);
  EXPECT_THROW((void)plan_node(topology, 1, 0, {.spare_cores = -1}), UsageError);
  EXPECT_THROW((void)plan_placement(topology, 2, 2), UsageError);
  EXPECT_THROW((void)plan_placement(topology, -1, 2), UsageError);
}

/// What must hold for every topology, number of ranks and threads.
void check_rules(const Topology& topology, int ranks, int threads) {
  SCOPED_TRACE(topology.mask() + ": " + std::to_string(ranks) + " ranks x " +
               std::to_string(threads));
  const auto placements = plan_node(topology, ranks, threads);
  ASSERT_EQ(placements.size(), static_cast<std::size_t>(ranks));
  std::map<int, int> threads_on_unit;
  std::map<int, int> core_of_unit;
  for (std::size_t core = 0; core < topology.cores().size(); ++core) {
    for (const int unit : topology.cores()[core].processing_units) {
      core_of_unit[unit] = static_cast<int>(core);
    }
  }
  int total = 0;
  int last_core = -1;
  const int cores = static_cast<int>(topology.cores().size());
  for (const Placement& placement : placements) {
    ASSERT_EQ(placement.thread_units.size(), static_cast<std::size_t>(placement.threads));
    if (threads > 0) {
      EXPECT_EQ(placement.threads, threads);
    }
    EXPECT_GE(placement.threads, 1);
    total += placement.threads;
    ASSERT_FALSE(placement.cores.empty());
    EXPECT_TRUE(std::is_sorted(placement.cores.begin(), placement.cores.end()));
    EXPECT_EQ(placement.cores.back() - placement.cores.front() + 1,
              static_cast<int>(placement.cores.size()))
        << "shares are contiguous";
    EXPECT_GE(placement.cores.front(), ranks <= cores ? last_core + 1 : last_core);
    last_core = placement.cores.back();
    for (const int unit : placement.thread_units) {
      ASSERT_TRUE(core_of_unit.contains(unit)) << "processing unit outside the mask";
      EXPECT_TRUE(std::binary_search(placement.cores.begin(), placement.cores.end(),
                                     core_of_unit.at(unit)));
      ++threads_on_unit[unit];
    }
  }
  std::map<int, int> threads_on_core;
  int most_on_unit = 0;
  for (const auto& [unit, count] : threads_on_unit) {
    threads_on_core[core_of_unit.at(unit)] += count;
    most_on_unit = std::max(most_on_unit, count);
  }
  const CoreSharing sharing = placements.front().sharing;
  EXPECT_EQ(sharing == CoreSharing::none, total <= cores);
  EXPECT_EQ(sharing == CoreSharing::oversubscribed, most_on_unit > 1);
  EXPECT_EQ(sharing == CoreSharing::none, placements.front().warning.empty());
  if (sharing == CoreSharing::none) {
    for (const auto& [core, count] : threads_on_core) EXPECT_EQ(count, 1) << "core " << core;
  }
  // Chosen threads use every core, except of a domain left without a rank.
  if (threads == 0 && ranks <= cores) {
    std::set<int> used_domains;
    for (const auto& [core, count] : threads_on_core) {
      used_domains.insert(topology.cores()[static_cast<std::size_t>(core)].numa_domain);
    }
    int expected = 0;
    int fewest = cores;
    for (const Placement& placement : placements) fewest = std::min(fewest, placement.threads);
    for (const int domain : used_domains) {
      expected += topology.numa_domains()[static_cast<std::size_t>(domain)].cores;
    }
    EXPECT_EQ(static_cast<int>(threads_on_core.size()), expected);
    for (int i = 0; i < static_cast<int>(topology.numa_domains().size()); ++i) {
      if (!used_domains.contains(i)) {
        EXPECT_LE(topology.numa_domains()[static_cast<std::size_t>(i)].cores, fewest);
      }
    }
  }
}

TEST(Placement, RulesHoldOnWholeMachines) {
  for (const char* description :
       {"pu:1", "package:1 l3:1 core:2 pu:1", "package:2 [numa] l3:1 core:40 pu:2",
        "package:2 group:2 [numa] core:4 pu:2", "package:2 [numa] core:4 pu:1",
        "package:3 [numa] core:5 pu:4", "package:1 [numa] [numa] core:6 pu:2"}) {
    const Topology topology = Topology::synthetic(description);
    for (int ranks = 1; ranks <= 12; ++ranks) {
      for (const int threads : {0, 1, 2, 3, 5, 8}) check_rules(topology, ranks, threads);
    }
    const auto whole = plan_node(topology, 1);
    EXPECT_EQ(static_cast<std::size_t>(whole[0].threads), topology.cores().size());
  }
}

TEST(Placement, RulesHoldOnArbitraryMasks) {
  const Topology machine = Topology::synthetic("package:2 group:2 [numa] core:4 pu:2");
  std::mt19937 random(7);
  for (int trial = 0; trial < 150; ++trial) {
    std::vector<int> units;
    const unsigned keep_percent = 10 + random() % 90;
    for (int unit = 0; unit < 32; ++unit) {
      if (random() % 100 < keep_percent) units.push_back(unit);
    }
    if (units.empty()) units.push_back(static_cast<int>(random() % 32));
    const Topology topology = machine.restricted_to(index_list(units));
    for (const int ranks : {1, 2, 3, 4, 7, 16}) {
      for (const int threads : {0, 1, 2, 4}) check_rules(topology, ranks, threads);
    }
  }
}

TEST(MaskGroup, EqualMasksAreDivided) {
  const Texts masks = {"0-79", "0-79", "0-79"};
  const MaskGroup group = mask_group(masks, 2);
  EXPECT_EQ(group.rank, 2);
  EXPECT_EQ(group.ranks, 3);
  EXPECT_FALSE(group.overlaps_others);
}

TEST(MaskGroup, DisjointMasksStandAlone) {
  const Texts masks = {"0", "1", "2-3"};
  for (int rank = 0; rank < 3; ++rank) {
    const MaskGroup group = mask_group(masks, rank);
    EXPECT_EQ(group.rank, 0);
    EXPECT_EQ(group.ranks, 1);
    EXPECT_FALSE(group.overlaps_others);
  }
}

TEST(MaskGroup, RanksBoundToTheSameSocketDivideIt) {
  const Texts masks = {"0-3", "4-7", "0-3", "4-7"};
  const MaskGroup group = mask_group(masks, 3);
  EXPECT_EQ(group.rank, 1);
  EXPECT_EQ(group.ranks, 2);
  const Topology own = two_domains_of_four().restricted_to(masks[3]);
  EXPECT_EQ(binding_string(own, plan_placement(own, group.rank, group.ranks)),
            "cores 6-7 (NUMA 1)");
}

TEST(MaskGroup, OverlapIsReported) {
  const Texts masks = {"0-3", "2-5", "8"};
  EXPECT_TRUE(mask_group(masks, 0).overlaps_others);
  EXPECT_TRUE(mask_group(masks, 1).overlaps_others);
  EXPECT_FALSE(mask_group(masks, 2).overlaps_others);
  EXPECT_THROW((void)mask_group(masks, 3), UsageError);
  EXPECT_THROW((void)mask_group(Texts{"zero"}, 0), UsageError);
}

}  // namespace
}  // namespace portolan
