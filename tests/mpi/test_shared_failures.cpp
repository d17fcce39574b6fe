// SPDX-License-Identifier: Apache-2.0
// What happens to the others when a rank dies, hangs, fails or goes its own way: each ends in time
// with a CommunicationError that says why. Ranks are forked processes.
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <random>
#include <stdexcept>
#include <thread>

#include "core/error.hpp"
#include "parallel/transport/shared/shared_communicator.hpp"
#include "tests/mpi/forked_ranks.hpp"

namespace portolan {
namespace {

using std::chrono::milliseconds;

// However busy the machine: a deadline that nothing here comes near, and a wait that is shorter, so
// that what ends within it did not end at the deadline.
constexpr milliseconds kFarDeadline{200'000};
constexpr milliseconds kPatience{100'000};
// Of ranks whose peer never comes; long beside what a scheduler may keep a rank waiting.
constexpr milliseconds kShortDeadline{3'000};

Tensor tensor(Communicator& world, std::int64_t elements) {
  const Tensor x = world.allocate({elements}, DType::f32, Device{});
  for (std::int64_t i = 0; i < elements; ++i) x.data<float>()[i] = 1.0F;
  return x;
}

/// All collectives, small and large, for ever.
void loop(Communicator& world) {
  const Partition partition = Partition::even(300'000, world.size());
  const Tensor small = tensor(world, 100);
  const Tensor large = tensor(world, 300'000);
  const Tensor shard = tensor(world, partition.share(world.rank()));
  for (;;) {
    world.all_reduce(small);
    world.all_reduce(large);
    world.reduce_scatter(large, shard, 0, partition);
    world.all_gather(shard, large, 0, partition);
    const auto rotation = world.rotate(small);
    for (int step = 1; step < world.size(); ++step) rotation->advance();
    world.broadcast(large, 0);
    world.barrier();
  }
}

void expect_communication_error(const RankOutcome& outcome, const std::string& message) {
  EXPECT_TRUE(outcome.in_time);
  EXPECT_EQ(outcome.signal, 0);
  EXPECT_EQ(outcome.exit_code, RankOutcome::kCommunicationError) << outcome.standard_error;
  EXPECT_NE(outcome.standard_error.find("CommunicationError: "), std::string::npos)
      << outcome.standard_error;
  EXPECT_NE(outcome.standard_error.find(message), std::string::npos) << outcome.standard_error;
}

/// Sends a signal to a random rank at a random moment of the loop, again and again.
void strike(int signal_number, int rounds, milliseconds deadline, const std::string& state) {
  std::mt19937 random(20'240'817);
  for (int round = 0; round < rounds; ++round) {
    const int size = 2 + round % 3;
    const int victim = std::uniform_int_distribution<int>(0, size - 1)(random);
    const int microseconds = std::uniform_int_distribution<int>(0, 60'000)(random);
    SCOPED_TRACE(testing::Message() << "round " << round << ": rank " << victim << " of " << size
                                    << " after " << microseconds << " us");
    ForkedRanks ranks(size, deadline, loop);
    ranks.wait_until_running();
    std::this_thread::sleep_for(std::chrono::microseconds(microseconds));
    ranks.signal(victim, signal_number);
    std::vector<int> survivors;
    for (int rank = 0; rank < size; ++rank) {
      if (rank != victim) survivors.push_back(rank);
    }
    for (const RankOutcome& outcome : ranks.wait(kPatience, survivors)) {
      expect_communication_error(outcome, state);
      EXPECT_NE(outcome.standard_error.find("rank " + std::to_string(victim)), std::string::npos)
          << outcome.standard_error;
    }
  }
}

TEST(SharedFailures, AKilledRankIsNoticedLongBeforeTheDeadline) {
  strike(SIGKILL, 15, kFarDeadline, "has ended");
}

TEST(SharedFailures, AStoppedRankIsNoticedAtTheDeadline) {
  strike(SIGSTOP, 3, kShortDeadline, "stopped");
}

TEST(SharedFailures, ARankThatNeverStartsIsNoticedAtTheDeadline) {
  const auto control = std::make_shared<SharedSegment>(make_shared_control(3));
  try {
    (void)make_shared_communicator(control, 1, 3, milliseconds(200));
    FAIL() << "a communicator of three ranks came up with one";
  } catch (const CommunicationError& error) {
    EXPECT_STREQ(error.what(),
                 "barrier on rank 1 of 3: no answer within 0.2 s from rank 0 (not started), rank 2 "
                 "(not started)");
  }
}

TEST(SharedFailures, AnErrorOfOneRankEndsTheOthers) {
  ForkedRanks ranks(3, kFarDeadline, [](Communicator& world) {
    world.barrier();
    const std::unique_ptr<Communicator> part = world.split(0, world.rank());
    if (world.rank() == 1) throw UsageError("this rank has had enough");
    part->barrier();
  });
  const std::vector<RankOutcome> outcomes = ranks.wait(kPatience);
  EXPECT_EQ(outcomes[1].exit_code, RankOutcome::kOtherError) << outcomes[1].standard_error;
  expect_communication_error(outcomes[0], "rank 1 stopped because of an error of its own");
  expect_communication_error(outcomes[2], "rank 1 stopped because of an error of its own");
}

TEST(SharedFailures, ARankThatLeavesEarlyIsNoticed) {
  ForkedRanks ranks(2, kFarDeadline, [](Communicator& world) {
    if (world.rank() == 0) return;
    world.barrier();
  });
  const std::vector<RankOutcome> outcomes = ranks.wait(kPatience);
  EXPECT_EQ(outcomes[0].exit_code, RankOutcome::kOk);
  expect_communication_error(outcomes[1], "barrier on rank 1 of 2: rank 0 (process ");
}

TEST(SharedFailures, RanksThatCallDifferentCollectivesAreTold) {
  ForkedRanks ranks(2, kFarDeadline, [](Communicator& world) {
    const Tensor x = tensor(world, 10);
    if (world.rank() == 0) {
      world.all_reduce(x);
    } else {
      world.broadcast(x, 0);
    }
  });
  for (const RankOutcome& outcome : ranks.wait(kPatience)) {
    expect_communication_error(outcome, "ranks must call the same collectives in the same order");
  }
}

TEST(SharedFailures, DifferentSizesAreTold) {
  ForkedRanks ranks(2, kFarDeadline, [](Communicator& world) {
    world.all_reduce(tensor(world, 10 + world.rank()));
  });
  for (const RankOutcome& outcome : ranks.wait(kPatience)) {
    expect_communication_error(outcome, "44 bytes of f32");
  }
}

TEST(SharedFailures, ARotationEndsWithoutThrowingAndTheNextCallThrows) {
  ForkedRanks ranks(2, kShortDeadline, [](Communicator& world) {
    const Tensor own = tensor(world, 1000);
    bool destroyed = false;
    try {
      {
        const auto rotation = world.rotate(own);
        rotation->advance();
        if (world.rank() == 1) ::raise(SIGSTOP);
      }
      destroyed = true;
      world.barrier();
    } catch (const CommunicationError&) {
      if (!destroyed) throw std::runtime_error("the end of the rotation threw");
      throw;
    }
  });
  const std::vector<RankOutcome> outcomes = ranks.wait(kPatience, {0});
  expect_communication_error(outcomes[0], "ring_shift on rank 0 of 2: no answer within 3 s");
}

TEST(SharedFailures, ACommunicatorThatFailedStaysFailed) {
  ForkedRanks ranks(2, kShortDeadline, [](Communicator& world) {
    if (world.rank() == 1) std::this_thread::sleep_for(2 * kShortDeadline);
    try {
      world.barrier();
    } catch (const CommunicationError&) {
      const auto start = std::chrono::steady_clock::now();
      try {
        world.all_reduce(tensor(world, 4));
      } catch (const CommunicationError&) {
        if (std::chrono::steady_clock::now() - start > kShortDeadline / 2) {
          throw std::runtime_error("the second failure took as long as the first");
        }
        throw;
      }
    }
    throw std::runtime_error("no failure");
  });
  const std::vector<RankOutcome> outcomes = ranks.wait(kPatience);
  expect_communication_error(outcomes[0], "no answer within 3 s from rank 1");
  expect_communication_error(outcomes[1], "given up");
}

}  // namespace
}  // namespace portolan
