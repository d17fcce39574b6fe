// SPDX-License-Identifier: Apache-2.0
// Every transport under mpirun with 1, 2, 3 and 4 ranks: the same checks, and what only MPI has.
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <array>
#include <atomic>
#include <chrono>
#include <csignal>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "backends/compat/kokkos_runtime.hpp"
#include "backends/serial/serial_backend.hpp"
#include "core/backend.hpp"
#include "core/error.hpp"
#include "parallel/device_communicator.hpp"
#include "parallel/transport/mpi/make_communicator.hpp"
#include "parallel/transport/mpi/mpi_group.hpp"
#include "parallel/transport/mpi/mpi_session.hpp"
#include "tests/mpi/collective_checks.hpp"
#include "tests/mpi/host_blocks.hpp"
#include "tests/mpi/rank_printer.hpp"

namespace portolan {
namespace {

MpiSession* session = nullptr;  // main's

using Clock = std::chrono::steady_clock;

// How long this waits for what is sure to come, on a machine however busy.
constexpr std::chrono::milliseconds kPatience{300'000};
constexpr Device kWithoutBackend{DeviceKind::cpu, 0};
constexpr Device kWithBackend{DeviceKind::serial, 0};

struct Transport {
  const char* name;
  TransportChoice choice;
  int ranks_per_node;
};

std::ostream& operator<<(std::ostream& out, const Transport& transport) {
  return out << transport.name;
}

std::unique_ptr<Communicator> make(const Transport& transport) {
  return make_mpi_communicator(*session, {.choice = transport.choice,
                                          .ranks_per_node = transport.ranks_per_node,
                                          .deadline = kPatience});
}

/// Ranks whose sums the transport rounds before it adds them up.
std::vector<std::vector<int>> nodes_of(const Transport& transport, int size) {
  const int per_node = transport.ranks_per_node > 1 ? transport.ranks_per_node : size;
  std::vector<std::vector<int>> nodes;
  for (int rank = 0; rank < size; ++rank) {
    if (rank % per_node == 0) nodes.emplace_back();
    nodes.back().push_back(rank);
  }
  return nodes;
}

std::string expected_description(const Transport& transport, int size) {
  if (size == 1) return "single";
  if (transport.choice == TransportChoice::mpi || transport.ranks_per_node == 1) return "MPI";
  const auto nodes = nodes_of(transport, size).size();
  if (nodes == 1) return "shared memory";
  // The description is this rank's view: a node may be one rank.
  return fmt::format("within {} nodes, MPI across", nodes);
}

/// Whether these ranks get the same communicator as from another of the transports below.
bool is_repetition(const Transport& transport, int size) {
  return transport.choice == TransportChoice::automatic && transport.ranks_per_node != 1 &&
         nodes_of(transport, size).size() == 1;
}

class Collectives : public testing::TestWithParam<Transport> {};
INSTANTIATE_TEST_SUITE_P(, Collectives,
                         testing::Values(Transport{"mpi", TransportChoice::mpi, 0},
                                         Transport{"shared", TransportChoice::shared, 0},
                                         Transport{"automatic", TransportChoice::automatic, 0},
                                         Transport{"nodes_of_1", TransportChoice::automatic, 1},
                                         Transport{"nodes_of_2", TransportChoice::automatic, 2},
                                         Transport{"nodes_of_3", TransportChoice::automatic, 3}),
                         [](const testing::TestParamInfo<Transport>& info) {
                           return std::string(info.param.name);
                         });

TEST_P(Collectives, OnWindows) {
  const std::unique_ptr<Communicator> world = make(GetParam());
  EXPECT_NE(world->description().find(expected_description(GetParam(), world->size())),
            std::string::npos)
      << world->description();
  EXPECT_EQ(world->size(), session->size());
  EXPECT_EQ(world->rank(), session->rank());
  const checks::Setting setting{kWithoutBackend, true, nodes_of(GetParam(), world->size())};
  checks::counters(*world, setting);
  if (!is_repetition(GetParam(), world->size())) checks::everything(*world, setting);
}

TEST_P(Collectives, OnOtherMemory) {
  const std::unique_ptr<Communicator> world = make(GetParam());
  const checks::Setting setting{kWithoutBackend, false, nodes_of(GetParam(), world->size())};
  checks::counters(*world, setting);
  if (!is_repetition(GetParam(), world->size())) checks::everything(*world, setting);
}

TEST_P(Collectives, WithABackendForLongSums) {
  const std::unique_ptr<Communicator> world = make(GetParam());
  for (const bool windows : {true, false}) {
    const checks::Setting setting{kWithBackend, windows, nodes_of(GetParam(), world->size())};
    const Partition partition = Partition::even(world->size() + 1, world->size());
    for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
      checks::all_reduce(*world, setting, dtype, 250'001);
      checks::reduce_scatter(*world, setting, dtype, 2, partition, 40'003);
      checks::all_gather(*world, setting, dtype, 2, partition, 40'003);
    }
  }
}

/// Nodes of one and two ranks, in this order, which consecutive ranks of equal nodes never are.
TEST(UnequalNodes, OneAndTwo) {
  if (session->size() == 4) {
    const std::unique_ptr<Communicator> world = make({"nodes_of_2", TransportChoice::automatic, 2});
    const std::unique_ptr<Communicator> part =
        world->split(world->rank() == 0 ? 0 : 1, world->rank());
    if (world->rank() > 0) {
      EXPECT_NE(part->description().find("within 2 nodes"), std::string::npos);
      checks::everything(*part, {kWithoutBackend, true, {{0}, {1, 2}}});
    } else {
      EXPECT_EQ(part->size(), 1);
    }
  } else {
    // Fewer ranks cannot form these nodes; what they do form must still be one rank's part.
    const std::unique_ptr<Communicator> world = make({"nodes_of_2", TransportChoice::automatic, 2});
    EXPECT_EQ(world->split(world->rank(), 0)->size(), 1);
  }
}

/// Collectives of equal blocks serve those of any shares; `kWithBackend` stands for a GPU.
TEST(DeviceCollectives, OfEqualBlocksServeAllShares) {
  std::unique_ptr<Communicator> host = make({"mpi", TransportChoice::mpi, 0});
  if (host->size() == 1) {
    EXPECT_EQ(host->description(), "single") << "one rank has no device communicator";
    return;
  }
  std::unique_ptr<DeviceCollectives> blocks = make_host_blocks(*host);
  const std::unique_ptr<Communicator> world =
      make_device_communicator(std::move(host), std::move(blocks), kWithBackend);
  EXPECT_EQ(world->description(), "blocks; for the host MPI");
  const auto nodes = nodes_of({"", {}, 0}, world->size());
  checks::everything(*world, {kWithBackend, true, nodes});
  checks::everything(*world, {kWithoutBackend, false, nodes});  // the host's own
}

/// For its lifetime this process can make no files, and so no shared memory, above a size.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) {
    ::getrlimit(RLIMIT_FSIZE, &before_);
    const rlimit limit{bytes, before_.rlim_max};
    handler_ = std::signal(SIGXFSZ, SIG_IGN);
    ::setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FileSizeLimit() {
    ::setrlimit(RLIMIT_FSIZE, &before_);
    std::signal(SIGXFSZ, handler_);
  }
  FileSizeLimit(const FileSizeLimit&) = delete;
  FileSizeLimit& operator=(const FileSizeLimit&) = delete;

 private:
  rlimit before_{};
  void (*handler_)(int) = nullptr;
};

TEST(WithoutSharedMemory, RanksUseMpiUnlessToldOtherwise) {
  const int size = session->size();
  // The first rank makes the control block; every rank makes memory of its own.
  for (const int victim : {0, size - 1}) {
    std::optional<FileSizeLimit> limit;
    if (session->rank() == victim) limit.emplace(4096);
    if (size == 1) {
      EXPECT_EQ(make({"shared", TransportChoice::shared, 0})->description(), "single");
      continue;
    }
    EXPECT_THROW((void)make({"shared", TransportChoice::shared, 0}), UnsupportedError);
    const std::unique_ptr<Communicator> world = make({"automatic", TransportChoice::automatic, 0});
    EXPECT_EQ(world->description(), "MPI");
    limit.reset();
    checks::all_reduce(*world, {kWithoutBackend, true, nodes_of({"", {}, 0}, size)}, DType::f32, 9);
  }
}

/// Waits without any call of MPI until another thread has written `value` there.
bool appears(float& place, float value) {
  for (const auto start = Clock::now(); Clock::now() - start < kPatience;) {
    if (std::atomic_ref(place).load(std::memory_order_acquire) == value) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return false;
}

TEST(Rotation, BlocksMoveWhileThisRankComputes) {
  const std::unique_ptr<Communicator> world = make({"mpi", TransportChoice::mpi, 0});
  const int size = world->size();
  if (size == 1) {
    EXPECT_EQ(world->rotate(world->allocate({3}, DType::f32, kWithoutBackend))->source(), 0);
    return;
  }
  constexpr std::int64_t kElements = 2'000'000;
  std::vector<float> own(kElements, static_cast<float>(world->rank()));
  const auto rotation =
      world->rotate(Tensor::borrow(own.data(), {kElements}, DType::f32, kWithoutBackend));
  // A block is received where the block before the current one was, unless that was the caller's.
  std::array<Tensor, 2> blocks;
  for (int step = 1; step <= 2; ++step) {
    rotation->advance();
    blocks[static_cast<std::size_t>(step % 2)] = rotation->current();
  }
  for (int step = 3; step <= 6; ++step) {
    const Tensor& next = blocks[static_cast<std::size_t>(step % 2)];
    const int source = ((world->rank() - step) % size + size) % size;
    // With two ranks a block's next content is what it was.
    next.data<float>()[kElements - 1] = -1.0F;
    rotation->prefetch();
    EXPECT_TRUE(appears(next.data<float>()[kElements - 1], static_cast<float>(source)))
        << "the block does not come before this rank asks for it";
    rotation->advance();
    EXPECT_EQ(rotation->source(), source);
    EXPECT_EQ(rotation->current().raw(), next.raw());
    EXPECT_EQ(next.data<float>()[0], static_cast<float>(source));
  }
}

TEST(Group, LongMessagesTravelInPieces) {
  // Longer than a piece, from a rank to itself. One rank's memory is enough for that.
  constexpr std::int64_t kPiece = std::int64_t{64} << 20;
  constexpr std::int64_t kBytes = 2 * kPiece + 12'345;
  const MpiGroup group = MpiGroup::all(session->world(), kPatience);
  if (group.rank() != 0) return;
  const auto from = std::make_unique_for_overwrite<std::byte[]>(static_cast<std::size_t>(kBytes));
  const auto to = std::make_unique_for_overwrite<std::byte[]>(static_cast<std::size_t>(kBytes));
  const std::vector<std::int64_t> places{0, kPiece - 1, kPiece, 2 * kPiece, kBytes - 1};
  for (const std::int64_t place : places) from[static_cast<std::size_t>(place)] = std::byte{42};
  MpiGroup::Batch batch(group, "test");
  batch.receive(to.get(), kBytes, 0);
  batch.send(from.get(), kBytes, 0);
  batch.wait();
  for (const std::int64_t place : places) {
    EXPECT_EQ(to[static_cast<std::size_t>(place)], std::byte{42}) << place;
  }
}

TEST(Group, ADeadlineIsForTheNextMessageNotForAllOfThem) {
  constexpr std::chrono::milliseconds kDeadline{5'000};
  constexpr std::chrono::milliseconds kInterval{500};
  constexpr int kMessages = 12;
  static_assert(kMessages * kInterval > kDeadline);
  const MpiGroup group = MpiGroup::all(session->world(), kDeadline);
  const int peer = group.rank() ^ 1;
  if (peer >= group.size()) return;
  std::array<std::byte, kMessages> data{};
  if (group.rank() % 2 == 0) {
    MpiGroup::Batch batch(group, "test");
    for (std::byte& each : data) batch.receive(&each, 1, peer);
    const auto start = Clock::now();
    batch.wait();
    EXPECT_GT(Clock::now() - start, kDeadline) << "the messages came too fast to show anything";
  } else {
    for (const std::byte& each : data) {
      std::this_thread::sleep_for(kInterval);
      MpiGroup::Batch batch(group, "test");
      batch.send(&each, 1, peer);
      batch.wait();
    }
  }
}

TEST(Session, KnowsTheNode) {
  EXPECT_TRUE(MpiSession::launched());
  EXPECT_EQ(session->node_count(), 1);
  EXPECT_EQ(session->local_size(), session->size());
  EXPECT_EQ(session->local_rank(), session->rank());
}

TEST(Arguments, AreCheckedBeforeAnythingIsSent) {
  const std::unique_ptr<Communicator> world = make({"automatic", TransportChoice::automatic, 0});
  const int size = world->size();
  const Device device = kWithoutBackend;
  const Tensor x = world->allocate({4, 6}, DType::f32, device);
  const Partition partition = Partition::even(6, size);
  const Tensor shard = world->allocate({4, partition.share(world->rank())}, DType::f32, device);
  EXPECT_THROW(world->all_reduce(Tensor()), UsageError);
  EXPECT_THROW(world->all_reduce(x.slice(1, 0, 3)), UsageError);
  EXPECT_THROW(world->all_reduce(world->allocate({4}, DType::i32, device)), UsageError);
  EXPECT_THROW(world->broadcast(x, size), UsageError);
  EXPECT_THROW(world->broadcast(x, -1), UsageError);
  EXPECT_THROW(world->all_gather(shard, x, 2, partition), UsageError);
  EXPECT_THROW(world->all_gather(shard, x, 1, Partition::even(6, size + 1)), UsageError);
  EXPECT_THROW(world->all_gather(shard, x, 1, Partition::even(7, size)), UsageError);
  EXPECT_THROW(world->reduce_scatter(x, world->allocate({4, 99}, DType::f32, device), 1, partition),
               UsageError);
  EXPECT_THROW(world->reduce_scatter(
                   x, world->allocate({4, partition.share(world->rank())}, DType::bf16, device), 1,
                   partition),
               UsageError);
  world->all_gather(shard, x, -1, partition);  // and after all that it still works
}

}  // namespace
}  // namespace portolan

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  portolan::MpiSession session(argc, argv);
  portolan::session = &session;
  portolan::print_tests_from_rank_zero(session.rank());
  const portolan::KokkosRuntime kokkos({.threads = 1});
  portolan::register_backend(portolan::make_serial_backend());
  const int result = RUN_ALL_TESTS();
  portolan::unregister_backends();
  return result;
}
