// SPDX-License-Identifier: Apache-2.0
// Collectives over shared memory between forked processes: no launcher, no MPI. This program must
// stay single-threaded, because it forks.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdint>
#include <numeric>
#include <stdexcept>
#include <thread>

#include "core/backend.hpp"
#include "core/error.hpp"
#include "parallel/transport/shared/process_state.hpp"
#include "parallel/transport/shared/shared_communicator.hpp"
#include "parallel/transport/shared/shared_segment.hpp"
#include "tests/mpi/collective_checks.hpp"
#include "tests/mpi/fake_device.hpp"
#include "tests/mpi/forked_ranks.hpp"

namespace portolan {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kDeadline{200'000};
constexpr milliseconds kPatience{120'000};

void expect_all_ok(int size, const ForkedRanks::Body& body) {
  ForkedRanks ranks(size, kDeadline, body);
  const std::vector<RankOutcome> outcomes = ranks.wait(kPatience);
  for (std::size_t rank = 0; rank < outcomes.size(); ++rank) {
    EXPECT_EQ(outcomes[rank].exit_code, RankOutcome::kOk)
        << "rank " << rank << ": " << outcomes[rank].standard_error;
  }
}

checks::Setting setting_of(const Communicator& world, bool windows) {
  std::vector<int> ranks(static_cast<std::size_t>(world.size()));
  std::iota(ranks.begin(), ranks.end(), 0);
  return {Device{DeviceKind::cpu, 0}, windows, {ranks}};
}

class SharedCollectives : public testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Ranks, SharedCollectives, testing::Values(1, 2, 3, 4));

TEST_P(SharedCollectives, OnWindows) {
  expect_all_ok(GetParam(),
                [](Communicator& world) { checks::everything(world, setting_of(world, true)); });
}

TEST_P(SharedCollectives, OnOtherMemory) {
  expect_all_ok(GetParam(),
                [](Communicator& world) { checks::everything(world, setting_of(world, false)); });
}

TEST_P(SharedCollectives, OnWindowsOfSomeRanksOnly) {
  expect_all_ok(GetParam(), [](Communicator& world) {
    const checks::Setting setting = setting_of(world, world.rank() == 0);
    const Partition partition = Partition::even(world.size() + 3, world.size());
    for (const std::int64_t elements : {5, 90'000, 400'000}) {
      checks::all_reduce(world, setting, DType::f32, elements);
      checks::broadcast(world, setting, DType::bf16, elements);
      checks::rotation(world, setting, DType::f32, elements, world.size());
      checks::all_gather(world, setting, DType::f32, 2, partition, elements / 4);
      checks::reduce_scatter(world, setting, DType::bf16, 2, partition, elements / 4);
    }
  });
}

/// A device tensor of one value, and whether a device tensor holds one value everywhere.
Tensor on_device(const Shape& shape, float value) {
  const Tensor tensor = Tensor::empty(shape, DType::f32, kFakeDevice);
  const std::vector<float> host(static_cast<std::size_t>(tensor.elements()), value);
  Backend& backend = backend_of(kFakeDevice);
  backend.copy_bytes(tensor.raw(), host.data(), tensor.bytes(), Queue::compute);
  backend.synchronize();
  return tensor;
}

void expect_on_device(const Tensor& tensor, const std::vector<float>& expected) {
  std::vector<float> host(static_cast<std::size_t>(tensor.elements()));
  Backend& backend = backend_of(kFakeDevice);
  backend.copy_bytes(host.data(), tensor.raw(), tensor.bytes(), Queue::compute);
  backend.synchronize();
  if (host != expected) throw std::runtime_error("wrong values on the device");
}

TEST_P(SharedCollectives, StageDeviceTensorsThroughTheHost) {
  expect_all_ok(GetParam(), [](Communicator& world) {
    register_backend(make_fake_device());
    {
      const int size = world.size();
      const auto mine = static_cast<float>(world.rank() + 1);
      float total = 0.0F;
      std::vector<float> of_ranks;
      for (int rank = 0; rank < size; ++rank) {
        total += static_cast<float>(rank + 1);
        of_ranks.push_back(static_cast<float>(rank + 1));
      }
      const Tensor x = world.allocate({300}, DType::f32, kFakeDevice);
      if (x.device() != kFakeDevice) throw std::runtime_error("allocated elsewhere");
      const Tensor sum = on_device({300}, mine);
      world.all_reduce(sum);
      expect_on_device(sum, std::vector<float>(300, size == 1 ? mine : total));
      const Tensor copy = on_device({2}, mine);
      world.broadcast(copy, size - 1);
      expect_on_device(copy, {static_cast<float>(size), static_cast<float>(size)});
      if (size > 1) {
        const Partition partition = Partition::even(size, size);
        const Tensor full = on_device({size}, -1.0F);
        world.all_gather(on_device({1}, mine), full, 0, partition);
        expect_on_device(full, of_ranks);
        const Tensor shard = on_device({1}, 0.0F);
        world.reduce_scatter(full, shard, 0, partition);
        expect_on_device(shard, {mine * static_cast<float>(size)});
      }
      const Tensor own = on_device({3}, mine);
      const auto rotation = world.rotate(own);
      for (int step = 0; step < size; ++step) {
        if (step > 0) rotation->advance();
        if (rotation->current().device() != kFakeDevice)
          throw std::runtime_error("left the device");
        expect_on_device(rotation->current(),
                         std::vector<float>(3, static_cast<float>(rotation->source() + 1)));
      }
    }
    unregister_backends();
  });
}

TEST(SharedWindow, RepeatedStepsTakeNoMoreMemory) {
  expect_all_ok(2, [](Communicator& world) {
    const Device device{DeviceKind::cpu, 0};
    const auto step = [&] {
      const Tensor a = world.allocate({1'000'000}, DType::f32, device);
      const Tensor b = world.allocate({3, 50'000}, DType::bf16, device);
      for (const Tensor& tensor : {a, b}) {
        if (reinterpret_cast<std::uintptr_t>(tensor.raw()) % 4096 != 0) {
          throw std::runtime_error("a window tensor does not begin on a page");
        }
      }
      world.all_reduce(a);
      return world.allocate({7}, DType::f32, device);
    };
    Tensor kept = step();
    kept = step();
    const std::int64_t reserved = world.memory().reserved;
    for (int i = 0; i < 20; ++i) kept = step();
    if (world.memory().reserved != reserved || reserved < 4'000'000) {
      throw std::runtime_error("repeating a step changed the memory that windows hold");
    }
  });
}

TEST(SharedWindow, RanksMayHoldDifferentTensors) {
  expect_all_ok(3, [](Communicator& world) {
    const checks::Setting setting = setting_of(world, true);
    std::vector<Tensor> held;
    for (int i = 0; i < 4; ++i) {
      for (int extra = 0; extra < world.rank(); ++extra) {
        held.push_back(world.allocate({500'000 + 999 * i}, DType::f32, Device{}));
      }
      checks::all_reduce(world, setting, DType::f32, 200'000);
      if (world.rank() == 1) held.erase(held.begin());
    }
  });
}

TEST(SharedWindow, TensorsOutliveTheCommunicator) {
  ForkedRanks ranks(2, kDeadline, [](Communicator& world) {
    std::unique_ptr<Communicator> part = world.split(0, world.rank());
    const Tensor tensor = part->allocate({100'000}, DType::f32, Device{});
    part.reset();
    for (int i = 0; i < 100'000; ++i) tensor.data<float>()[i] = 1.0F;
    world.all_reduce(tensor);  // a window of no communicator now: staged
    if (tensor.data<float>()[99'999] != 2.0F) throw std::runtime_error("wrong sum");
  });
  for (const RankOutcome& outcome : ranks.wait(kPatience)) {
    EXPECT_EQ(outcome.exit_code, RankOutcome::kOk) << outcome.standard_error;
  }
}

TEST(SharedSegment, IsSeenThroughItsName) {
  const SharedSegment segment = SharedSegment::create(10'000);
  const SharedSegment again = SharedSegment::open(segment.name());
  segment.data()[9'999] = std::byte{7};
  EXPECT_NE(again.data(), segment.data());
  EXPECT_EQ(again.data()[9'999], std::byte{7});
  EXPECT_EQ(again.data()[0], std::byte{0});
  EXPECT_TRUE(segment.contains(segment.data() + 9'999));
  EXPECT_FALSE(segment.contains(segment.data() + 10'000));
}

TEST(SharedSegment, RefusesWhatIsNotTheSegmentMeant) {
  const SharedSegment segment = SharedSegment::create(4096);
  SegmentName wrong = segment.name();
  ++wrong.inode;
  EXPECT_THROW((void)SharedSegment::open(wrong), CommunicationError);
  wrong = segment.name();
  wrong.descriptor = 987'654;
  EXPECT_THROW((void)SharedSegment::open(wrong), CommunicationError);
}

TEST(SharedSegment, GrowsWhereItLiesAndPeersSeeIt) {
  SharedSegment segment = SharedSegment::create(4096, 1 << 20);
  const SharedSegment again = SharedSegment::open(segment.name());
  std::byte* const data = segment.data();
  data[4095] = std::byte{1};
  ASSERT_TRUE(segment.extend(1 << 20));
  EXPECT_EQ(segment.data(), data);
  EXPECT_EQ(segment.bytes(), std::size_t{1} << 20);
  data[(1 << 20) - 1] = std::byte{2};
  EXPECT_EQ(again.data()[4095], std::byte{1});
  EXPECT_EQ(again.data()[(1 << 20) - 1], std::byte{2});
  EXPECT_EQ(again.data()[4096], std::byte{0});
  EXPECT_FALSE(segment.extend((1 << 20) + 4096)) << "past what was reserved";
  EXPECT_EQ(segment.bytes(), std::size_t{1} << 20);
}

TEST(SharedSegment, TooMuchMemoryIsAnErrorAtOnce) {
  EXPECT_THROW((void)SharedSegment::create(std::size_t{1} << 60), OutOfMemoryError);
}

TEST(ProcessState, TellsRunningStoppedAndEnded) {
  EXPECT_EQ(state_of(this_process()), ProcessState::running);
  ProcessIdentity another = this_process();
  ++another.start_time;
  EXPECT_EQ(state_of(another), ProcessState::ended) << "the number was given to a later process";

  const pid_t child = ::fork();
  if (child == 0) {
    ::pause();
    ::_exit(0);
  }
  const ProcessIdentity identity{child, 0};
  const auto reaches = [&](ProcessState state) {
    for (int i = 0; i < 2000 && state_of(identity) != state; ++i) {
      std::this_thread::sleep_for(milliseconds(1));
    }
    return state_of(identity) == state;
  };
  EXPECT_TRUE(reaches(ProcessState::running));
  ::kill(child, SIGSTOP);
  EXPECT_TRUE(reaches(ProcessState::stopped));
  ::kill(child, SIGKILL);
  EXPECT_TRUE(reaches(ProcessState::ended)) << "a zombie has ended";
  ::waitpid(child, nullptr, 0);
  EXPECT_EQ(state_of(identity), ProcessState::ended);
}

}  // namespace
}  // namespace portolan
