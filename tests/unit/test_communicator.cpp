// SPDX-License-Identifier: Apache-2.0
// The communicator of one rank, and the options of transports. What several ranks do is under
// tests/mpi.
#include <gtest/gtest.h>

#include <cstdlib>
#include <string>
#include <vector>

#include "core/error.hpp"
#include "parallel/communicator.hpp"
#include "parallel/transport_options.hpp"

namespace portolan {
namespace {

constexpr Device kDevice{DeviceKind::serial, 0};

TEST(SingleCommunicator, LeavesSumsAndCopiesShards) {
  const std::unique_ptr<Communicator> single = make_single_communicator();
  EXPECT_EQ(single->rank(), 0);
  EXPECT_EQ(single->size(), 1);
  EXPECT_EQ(single->description(), "single");
  const Tensor x = single->allocate({2, 3}, DType::f32, kDevice);
  const Tensor y = single->allocate({2, 3}, DType::f32, kDevice);
  for (std::int64_t i = 0; i < 6; ++i) x.data<float>()[i] = static_cast<float>(i);
  single->all_reduce(x);
  single->broadcast(x, 0);
  single->barrier();
  single->all_gather(x, y, 1, Partition::even(3, 1));
  EXPECT_EQ(y.data<float>()[5], 5.0F);
  y.data<float>()[5] = 7.0F;
  single->reduce_scatter(y, x, 0, Partition::even(2, 1));
  EXPECT_EQ(x.data<float>()[5], 7.0F);
  single->all_gather(x, x, 0, Partition::even(2, 1));  // already there
  EXPECT_EQ(x.data<float>()[4], 4.0F);
}

TEST(SingleCommunicator, RotatesItsOwnBlock) {
  const std::unique_ptr<Communicator> single = make_single_communicator();
  const Tensor x = single->allocate({4}, DType::bf16, kDevice);
  const std::unique_ptr<RingRotation> rotation = single->rotate(x);
  for (int step = 0; step < 3; ++step) {
    EXPECT_EQ(rotation->source(), 0);
    EXPECT_EQ(rotation->current().raw(), x.raw());
    rotation->prefetch();
    rotation->advance();
  }
}

TEST(SingleCommunicator, CountsNothing) {
  const std::unique_ptr<Communicator> single = make_single_communicator();
  const Tensor x = single->allocate({4}, DType::f32, kDevice);
  single->all_reduce(x);
  single->barrier();
  single->rotate(x)->advance();
  for (const CollectiveCounters& counters : single->counters()) {
    EXPECT_EQ(counters.calls, 0);
    EXPECT_EQ(counters.bytes, 0);
  }
}

TEST(SingleCommunicator, SplitsIntoItself) {
  const std::unique_ptr<Communicator> single = make_single_communicator();
  EXPECT_EQ(single->split(3, -1)->size(), 1);
}

TEST(SingleCommunicator, ChecksArgumentsAsAllDo) {
  const std::unique_ptr<Communicator> single = make_single_communicator();
  const Tensor x = single->allocate({2, 3}, DType::f32, kDevice);
  EXPECT_THROW(single->all_reduce(x.slice(1, 0, 2)), UsageError);
  EXPECT_THROW(single->all_reduce(single->allocate({2}, DType::i64, kDevice)), UsageError);
  EXPECT_THROW(single->broadcast(x, 1), UsageError);
  EXPECT_THROW(single->all_gather(x, x, 1, Partition::even(3, 2)), UsageError);
  EXPECT_THROW(single->all_gather(x, x, 5, Partition::even(3, 1)), UsageError);
  EXPECT_THROW((void)single->rotate(Tensor()), UsageError);
}

TEST(Collective, EachHasItsName) {
  std::string names;
  for (int i = 0; i < kCollectiveCount; ++i) {
    names += std::string(name_of(static_cast<Collective>(i))) + " ";
  }
  EXPECT_EQ(names, "all_reduce all_gather reduce_scatter broadcast ring_shift barrier ");
}

class TransportEnvironment : public testing::Test {
 protected:
  TransportEnvironment() { clear(); }
  ~TransportEnvironment() override { clear(); }
  static void clear() {
    for (const char* name :
         {"PORTOLAN_TRANSPORT", "PORTOLAN_RANKS_PER_NODE", "PORTOLAN_DEADLINE"}) {
      ::unsetenv(name);
    }
  }
  /// The message of the UsageError that reading the environment ends in.
  static std::string refusal() {
    try {
      (void)TransportOptions::from_environment();
    } catch (const UsageError& error) {
      return error.what();
    }
    return "accepted";
  }
};

TEST_F(TransportEnvironment, EmptyGivesTheDefaults) {
  const TransportOptions options = TransportOptions::from_environment();
  EXPECT_EQ(options.choice, TransportChoice::automatic);
  EXPECT_EQ(options.ranks_per_node, 0);
  EXPECT_EQ(options.deadline, std::chrono::seconds(60));
}

TEST_F(TransportEnvironment, IsRead) {
  ::setenv("PORTOLAN_TRANSPORT", "mpi", 1);
  ::setenv("PORTOLAN_RANKS_PER_NODE", "2", 1);
  ::setenv("PORTOLAN_DEADLINE", "0.25", 1);
  const TransportOptions options = TransportOptions::from_environment();
  EXPECT_EQ(options.choice, TransportChoice::mpi);
  EXPECT_EQ(options.ranks_per_node, 2);
  EXPECT_EQ(options.deadline, std::chrono::milliseconds(250));
}

TEST_F(TransportEnvironment, SaysWhatIsWrong) {
  ::setenv("PORTOLAN_TRANSPORT", "tcp", 1);
  EXPECT_EQ(refusal(), "PORTOLAN_TRANSPORT must be auto, mpi, shared or nccl, found 'tcp'");
  clear();
  ::setenv("PORTOLAN_RANKS_PER_NODE", "1.5", 1);
  EXPECT_EQ(refusal(), "PORTOLAN_RANKS_PER_NODE must be whole, found '1.5'");
  for (const char* value : {"0", "-3", "soon", "5s", "nan", "1e300"}) {
    clear();
    ::setenv("PORTOLAN_DEADLINE", value, 1);
    EXPECT_EQ(refusal(),
              std::string("PORTOLAN_DEADLINE must be a positive number, found '") + value + "'");
  }
}

TEST(GpuTransport, IsNcclWhereEachRankHasAGpuToItself) {
  const std::vector<std::string> distinct{"a", "b"};
  const std::vector<std::string> shared{"a", "a"};
  const auto transport = [](TransportChoice choice, std::span<const std::string> gpus) {
    return GpuTransport{
        .choice = choice, .nccl_is_built = true, .device = DeviceKind::cuda, .gpus = gpus};
  };
  EXPECT_TRUE(uses_nccl(transport(TransportChoice::automatic, distinct), 2));
  EXPECT_TRUE(uses_nccl(transport(TransportChoice::nccl, distinct), 2));
  EXPECT_FALSE(uses_nccl(transport(TransportChoice::mpi, distinct), 2));
  EXPECT_FALSE(uses_nccl(transport(TransportChoice::shared, distinct), 2));
  EXPECT_FALSE(uses_nccl(transport(TransportChoice::automatic, shared), 2));
  EXPECT_FALSE(uses_nccl(transport(TransportChoice::nccl, {}), 1)) << "nobody to talk to";
}

TEST(GpuTransport, SaysWhyNcclCannotServe) {
  const std::vector<std::string> gpus{"a", "b", "a"};
  GpuTransport transport{.choice = TransportChoice::nccl,
                         .nccl_is_built = true,
                         .device = DeviceKind::cuda,
                         .gpus = gpus};
  const auto refusal = [&] {
    try {
      static_cast<void>(uses_nccl(transport, 3));
    } catch (const UnsupportedError& error) {
      return std::string(error.what());
    }
    return std::string("none");
  };
  EXPECT_EQ(refusal(), "NCCL was asked for, but 3 ranks share 2 GPUs, it wants one for each");
  transport.emulates_link = true;
  EXPECT_EQ(refusal(), "NCCL was asked for, but it heeds no emulated link");
  transport.device = DeviceKind::cpu;
  EXPECT_EQ(refusal(), "NCCL was asked for, but device cpu is no GPU");
  transport.nccl_is_built = false;
  EXPECT_EQ(refusal(), "NCCL was asked for, but this build has none");
  transport.choice = TransportChoice::automatic;
  EXPECT_EQ(refusal(), "none") << "what was not asked for is left";
  EXPECT_FALSE(uses_nccl(transport, 3));
}

}  // namespace
}  // namespace portolan
