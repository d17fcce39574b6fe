// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <string>
#include <thread>
#include <vector>

#include "core/error.hpp"
#include "core/log.hpp"
#include "runtime/openmp_team.hpp"
#include "runtime/placement.hpp"

namespace portolan {
namespace {

TEST(Binding, RefusesTheTopologyOfAnotherMachine) {
  const Topology topology = Topology::synthetic("core:2 pu:1");
  const Placement placement = plan_placement(topology, 0, 1);
  EXPECT_THROW(apply_placement(topology, placement), UsageError);
  EXPECT_THROW(bind_threads(topology, placement, [](const auto& body) { body(0); }), UsageError);
}

/// Runs body(i) on `size` threads of their own.
TeamRunner team_of(int size) {
  return [size](const std::function<void(int)>& body) {
    std::vector<std::thread> threads;
    for (int i = 0; i < size; ++i) threads.emplace_back(body, i);
    for (std::thread& thread : threads) thread.join();
  };
}

TEST(Binding, ProcessKeepsToItsCoresAndEachThreadToItsOwn) {
  const Topology topology = Topology::detect();
  const Placement everything = plan_placement(topology, 0, 1);
  // As the last of as many ranks as there are cores: the last core.
  const int cores = static_cast<int>(topology.cores().size());
  const Placement last = plan_placement(topology, cores - 1, cores);
  ASSERT_TRUE(apply_placement(topology, last));
  EXPECT_EQ(thread_mask(topology), index_list(topology.cores().back().processing_units));
  ASSERT_TRUE(apply_placement(topology, everything));
  EXPECT_EQ(thread_mask(topology), topology.mask());

  const TeamRunner team = team_of(everything.threads);
  std::vector<std::string> masks(static_cast<std::size_t>(everything.threads));
  const int pinned = bind_threads(topology, everything, [&](const std::function<void(int)>& body) {
    team([&](int thread) {
      body(thread);
      masks[static_cast<std::size_t>(thread)] = thread_mask(topology);
    });
  });
  EXPECT_EQ(pinned, everything.threads);
  for (std::size_t thread = 0; thread < masks.size(); ++thread) {
    EXPECT_EQ(masks[thread], std::to_string(everything.thread_units[thread]));
  }
}

TEST(Binding, MemoryPolicyIsAppliedOrReported) {
  const Topology topology = Topology::detect(openmp_places());
  const Placement placement = plan_placement(topology, 0, 1, 0, {.bind_memory = true});
  log().set_level(LogLevel::warn);
  testing::internal::CaptureStderr();
  const bool applied = apply_placement(topology, placement);
  const std::string warning = testing::internal::GetCapturedStderr();
  // Containers may forbid memory policies.
  EXPECT_EQ(applied, warning.empty()) << warning;
  int policy = -1;
  if (applied && syscall(SYS_get_mempolicy, &policy, nullptr, 0UL, nullptr, 0UL) == 0) {
    EXPECT_NE(policy, 0) << "still the default policy";
  }
}

TEST(Binding, OpenMpThreadsKeepToTheirCores) {
  const Topology topology = Topology::detect(openmp_places());
  const Placement placement = plan_placement(topology, 0, 1);
  const TeamRunner team = [&](const std::function<void(int)>& body) {
    run_on_openmp_team(placement.threads, body);
  };
  EXPECT_EQ(bind_threads(topology, placement, team), placement.threads);
  // Another region of the same size gets the same threads.
  std::vector<std::string> masks(static_cast<std::size_t>(placement.threads));
  team([&](int thread) { masks[static_cast<std::size_t>(thread)] = thread_mask(topology); });
  for (std::size_t thread = 0; thread < masks.size(); ++thread) {
    EXPECT_EQ(masks[thread], std::to_string(placement.thread_units[thread]));
  }
  apply_placement(topology, placement);
}

TEST(Binding, ReportsATeamOfAnotherSize) {
  const Topology topology = Topology::detect();
  const Placement placement = plan_placement(topology, 0, 1, 1);
  log().set_level(LogLevel::warn);  // whatever PORTOLAN_LOG says
  testing::internal::CaptureStderr();
  const int pinned = bind_threads(topology, placement, team_of(2));
  EXPECT_EQ(pinned, 1);
  EXPECT_EQ(testing::internal::GetCapturedStderr(),
            "portolan: warning: 1 threads were planned, 2 ran and 1 could be bound to their "
            "cores\n");
}

TEST(Binding, FloatingThreadsAreNotPinned) {
  const Topology topology = Topology::detect();
  const Placement placement = plan_placement(topology, 0, 1, 0, {.pin_threads = false});
  EXPECT_EQ(bind_threads(topology, placement,
                         [](const std::function<void(int)>&) { FAIL() << "must not run"; }),
            0);
}

}  // namespace
}  // namespace portolan
