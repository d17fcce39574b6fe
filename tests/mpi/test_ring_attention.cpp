// SPDX-License-Identifier: Apache-2.0
// Ring attention against local attention over the same sequences. Run under mpirun with 1, 2, 3 and
// 4 ranks.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <memory>

#include "core/ops.hpp"
#include "core/timer.hpp"
#include "parallel/context_parallel.hpp"
#include "tests/mpi/test_runtime.hpp"

namespace portolan {
namespace {

constexpr std::int64_t kBatch = 2;

SelfAttention grouped_attention(std::int64_t window = 0) {
  return {.heads = 4,
          .kv_heads = 2,
          .head_dim = 16,
          .groups = head_groups(0, 4, 2),
          .scale = 0.25F,
          .window = window};
}

Tensor random(const Shape& shape, const char* name) {
  const Tensor tensor = Tensor::empty(shape, DType::f32, test_device());
  const std::int64_t columns = shape[shape.rank() - 1];
  ops::random_uniform(tensor.view({shape.elements() / columns, columns}), random_key(1, name),
                      {0, 0, columns}, 0.0F, 1.0F);
  return tensor;
}

/// The rows of x [B, length, ...] that this rank holds.
Tensor local_rows(const Tensor& x, const SequenceSharding& sharding) {
  Shape shape = x.shape();
  shape[1] = sharding.local_tokens(test_world().rank());
  const Tensor local = Tensor::empty(shape, x.dtype(), x.device());
  std::int64_t row = 0;
  for (const TokenRun& run : sharding.runs(test_world().rank())) {
    ops::copy(x.slice(1, run.position, run.position + run.length),
              local.slice(1, row, row + run.length));
    row += run.length;
  }
  return local;
}

struct Results {
  Tensor out;
  Tensor grad_x;
};

Results run(const Tensor& x, const Tensor& grad_out, const SelfAttention& attention,
            const AttentionStrategy& strategy, const SequenceSharding& sharding) {
  Tape tape;
  const Variable input = tape.input(x);
  const Variable out = self_attention(input, attention, strategy, sharding);
  const Tensor value = out.value();
  tape.backward(out, grad_out);
  return {value, tape.gradient_of(input)};
}

double largest_difference(const Tensor& a, const Tensor& b) {
  const std::vector<float> found = values_of(a);
  const std::vector<float> expected = values_of(b);
  double difference = 0.0;
  double largest = 1e-3;
  for (std::size_t i = 0; i < found.size(); ++i) {
    difference = std::max(difference, std::abs(static_cast<double>(found[i]) - expected.at(i)));
    largest = std::max(largest, std::abs(static_cast<double>(expected[i])));
  }
  return difference / largest;
}

void expect_equal_to_one_rank(std::int64_t length, std::int64_t window) {
  SCOPED_TRACE(fmt::format("length {} window {}", length, window));
  const SelfAttention attention = grouped_attention(window);
  const Tensor x = random({kBatch, length, 8 * 16}, "x");
  const Tensor grad_out = random({kBatch, length, 4 * 16}, "gradient");
  const std::unique_ptr<AttentionStrategy> local = make_local_attention();
  const Results expected = run(x, grad_out, attention, *local, local->sharding(length));

  Communicator& world = test_world();
  const std::unique_ptr<AttentionStrategy> ring = make_ring_attention(world);
  const SequenceSharding sharding = ring->sharding(length);
  world.reset_counters();
  const Results found =
      run(local_rows(x, sharding), local_rows(grad_out, sharding), attention, *ring, sharding);
  const std::int64_t bytes =
      world.counters()[static_cast<std::size_t>(Collective::ring_shift)].bytes;
  EXPECT_LE(largest_difference(found.out, local_rows(expected.out, sharding)), 1e-5);
  EXPECT_LE(largest_difference(found.grad_x, local_rows(expected.grad_x, sharding)), 1e-5);
  EXPECT_EQ(test_sum(bytes),
            ring_attention_bytes(sharding, kBatch, 2, 16, DType::f32) +
                ring_attention_backward_bytes(sharding, kBatch, 2, 16, DType::f32));
}

TEST(RingAttention, ForwardAndGradientsEqualOneRankAndBytesTheClosedForm) {
  for (const std::int64_t length : {1, 5, 257, 1998}) expect_equal_to_one_rank(length, 0);
  for (const std::int64_t length : {5, 257}) expect_equal_to_one_rank(length, 7);
}

TEST(RingAttention, ALongPromptEqualsOneRank) {
  if (test_device().kind == DeviceKind::serial) {
    expect_equal_to_one_rank(999, 0);  // the portable kernels on one core take their time
  } else {
    expect_equal_to_one_rank(6998, 0);
  }
}

TEST(RingAttention, ARankHoldsItsOwnBlockAndAtMostTwoInFlight) {
  Communicator& world = test_world();
  const SelfAttention attention = grouped_attention();
  constexpr std::int64_t kLength = 4096;
  const std::unique_ptr<AttentionStrategy> ring = make_ring_attention(world);
  const SequenceSharding sharding = ring->sharding(kLength);
  const Tensor x = local_rows(random({kBatch, kLength, 8 * 16}, "x"), sharding);
  const AttentionOperands operands = AttentionOperands::of(x, attention);
  const AttentionResult result{Tensor::empty(operands.q.shape(), DType::f32, test_device()),
                               Tensor()};
  const std::int64_t block = 2 * kBatch * sharding.largest_local_tokens() * 2 * 16 * 4;
  const CachingAllocator& allocator = backend_of(test_device()).allocator();
  const auto in_use = [&] {
    return allocator.counters().allocated_peak + world.memory().allocated_peak;
  };
  backend_of(test_device()).allocator().reset_peaks();
  world.reset_memory_peaks();
  const std::int64_t before = in_use();
  ring->forward(operands, attention, sharding, result);
  // What the kernels and the merge need beside the blocks, all of it of this rank's tokens.
  const std::int64_t rows = kBatch * sharding.local_tokens(world.rank()) * 4;
  const std::int64_t partial_sums = 2 * rows * 16 * 4 + 2 * rows * 4;
  const std::int64_t held = in_use() - before - partial_sums;
  EXPECT_LE(held, 3 * block + block / 2) << "one block is " << block << " bytes";
}

TEST(RingAttention, SharesOfScoresDifferByLessThanFivePerCent) {
  const SequenceSharding sharding(4096, 4);
  std::int64_t least = INT64_MAX;
  std::int64_t most = 0;
  for (int rank = 0; rank < 4; ++rank) {
    std::int64_t scores = 0;
    for (int source = 0; source < 4; ++source) {
      AttentionMask mask;
      mask.query_runs = sharding.runs(rank);
      mask.key_runs = sharding.runs(source);
      scores += visible_scores(mask, sharding.local_tokens(rank), sharding.local_tokens(source));
    }
    least = std::min(least, scores);
    most = std::max(most, scores);
  }
  EXPECT_LT(static_cast<double>(most), 1.05 * static_cast<double>(least));
}

/// Puts the link back when a test ends.
class EmulatedLink {
 public:
  explicit EmulatedLink(const LinkEmulation& link) { test_world().emulate_link(link); }
  ~EmulatedLink() { test_world().emulate_link({}); }
  EmulatedLink(const EmulatedLink&) = delete;
  EmulatedLink& operator=(const EmulatedLink&) = delete;
};

TEST(EmulatedLink, CollectivesTakeAtLeastTheirTimeOnIt) {
  Communicator& world = test_world();
  if (world.size() == 1) return;  // nothing travels
  constexpr double kLatency = 2e-3;
  const EmulatedLink link({.bytes_per_second = 1e8, .latency_seconds = kLatency});
  const Tensor x = Tensor::empty({100'000}, DType::f32, test_device());
  ops::fill(x, 1.0F);
  world.reset_counters();
  world.all_reduce(x);
  const CollectiveCounters& counters =
      world.counters()[static_cast<std::size_t>(Collective::all_reduce)];
  EXPECT_GE(counters.seconds,
            2 * (world.size() - 1) * kLatency + static_cast<double>(counters.bytes) / 1e8);
  EXPECT_EQ(values_of(x).back(), static_cast<float>(world.size()));
}

TEST(EmulatedLink, ABlockThatTravelsWhileTheRankComputesIsNotWaitedFor) {
  Communicator& world = test_world();
  if (world.size() == 1) return;  // nothing travels
  constexpr double kTransfer = 0.05;
  const EmulatedLink link({.bytes_per_second = 0.0, .latency_seconds = kTransfer});
  const Tensor own = world.allocate({64}, DType::f32, test_device());
  ops::fill(own, 0.0F);
  const auto seconds_in_advance = [&](bool ahead) {
    world.barrier();
    const std::unique_ptr<RingRotation> rotation = world.rotate(own);
    if (ahead) rotation->prefetch();
    wait_until(std::chrono::steady_clock::now(), kTransfer);  // stands for computing
    world.reset_counters();
    rotation->advance();
    return world.counters()[static_cast<std::size_t>(Collective::ring_shift)].seconds;
  };
  EXPECT_GE(seconds_in_advance(false), kTransfer);
  // What is left is the hand-over itself; a busy machine may take its time for that, seldom always.
  double least = kTransfer;
  for (int attempt = 0; attempt < 5; ++attempt) least = std::min(least, seconds_in_advance(true));
  EXPECT_LT(least, 0.5 * kTransfer);
}

}  // namespace
}  // namespace portolan
