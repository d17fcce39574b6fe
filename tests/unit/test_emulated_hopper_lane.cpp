// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "attention/cuda/sm90_layout.hpp"
#include "core/error.hpp"
#include "tests/unit/emulated_hopper_lane.hpp"

/// That the emulation sees what the hardware would not forgive.
namespace portolan::testing_support {
namespace {

constexpr int kThreads = 128;
constexpr std::size_t kBytes = 32768;

using Body = std::function<void(const EmulatedHopperLane&, std::byte*)>;

void run(const Body& body, HopperLiberties liberties = {}) {
  run_emulated_hopper_block(kThreads, kBytes, liberties, 0, 1, body);
}
void expect_error(const Body& body, const std::string& part, HopperLiberties liberties = {}) {
  try {
    run(body, liberties);
    ADD_FAILURE() << "no error, expected " << part;
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
  }
}

/// 64 rows of a tensor with 128 tokens, one head and a head_dim of 64.
struct Tensor {
  std::vector<std::uint16_t> data = std::vector<std::uint16_t>(128 * 64, 0x3F80);  // bf16: 1
  EmulatedTensorMap map() { return {data.data(), {64, 1, 128, 1}, {1, 64, 64, 128 * 64}, 64}; }
};
constexpr int kBoxBytes = 64 * 64 * 2;

TEST(EmulatedHopperLane, SeesThreadsThatWaitForever) {
  expect_error(
      [](const EmulatedHopperLane& lane, std::byte* shared) {
        auto& barrier = *reinterpret_cast<std::uint64_t*>(shared);
        if (lane.thread() == 0) lane.barrier_init(barrier, 2);
        lane.block_barrier();
        if (lane.thread() == 0) lane.barrier_arrive(barrier);
        lane.barrier_wait(barrier, 0);
      },
      "wait forever: 128 at a barrier in shared memory");
}

TEST(EmulatedHopperLane, SeesMoreArrivalsThanABarrierExpects) {
  expect_error(
      [](const EmulatedHopperLane& lane, std::byte* shared) {
        auto& barrier = *reinterpret_cast<std::uint64_t*>(shared);
        if (lane.thread() != 0) return;
        lane.barrier_init(barrier, 1);
        lane.barrier_announce(barrier, 16);  // so that the phase does not end
        lane.barrier_arrive(barrier);
        lane.barrier_arrive(barrier);
      },
      "more threads come to a barrier");
}

TEST(EmulatedHopperLane, SeesProductsThatNoFencePrecedes) {
  expect_error(
      [](const EmulatedHopperLane& lane, std::byte*) {
        float sums[32] = {};
        lane.shared_product<cuda::AttentionElement::bf16>(sums, 0, 0, false);
      },
      "no fence precedes");
}

TEST(EmulatedHopperLane, SeesCopiesOfWhatNoFenceHasMadeVisible) {
  Tensor tensor;
  const EmulatedTensorMap map = tensor.map();
  expect_error(
      [&map](const EmulatedHopperLane& lane, std::byte* shared) {
        const std::uint32_t registers[4] = {};
        const std::uint32_t row =
            lane.shared_address(shared) + static_cast<std::uint32_t>(lane.thread() % 32 * 16);
        lane.store_matrices(row, registers);
        lane.block_barrier();
        if (lane.thread() == 0) lane.copy_box_out(&map, {}, shared);
      },
      "no fence has made visible");
}

TEST(EmulatedHopperLane, SeesThreadsThatEndBeforeTheirCopiesHaveRead) {
  Tensor tensor;
  const EmulatedTensorMap map = tensor.map();
  expect_error(
      [&map](const EmulatedHopperLane& lane, std::byte* shared) {
        if (lane.thread() == 0) lane.copy_box_out(&map, {}, shared);
      },
      "its copies may read shared memory");
}

TEST(EmulatedHopperLane, SeesRegisterBudgetsBeyondTheBlocks) {
  expect_error([](const EmulatedHopperLane& lane, std::byte*) { lane.grow_registers<520>(); },
               "registers for a block");
}

/// A box copied in and multiplied by itself: every sum is over 64 ones.
TEST(EmulatedHopperLane, CopiesAndMultiplies) {
  Tensor tensor;
  const EmulatedTensorMap map = tensor.map();
  for (const bool late : {false, true}) {
    run(
        [&map](const EmulatedHopperLane& lane, std::byte* shared) {
          auto& barrier = *reinterpret_cast<std::uint64_t*>(shared + kBoxBytes);
          if (lane.thread() == 0) {
            lane.barrier_init(barrier, 1);
            lane.barrier_announce(barrier, kBoxBytes);
            lane.copy_box_in(&map, {.column = 0, .head = 0, .token = 80, .entry = 0}, shared,
                             barrier);
            lane.barrier_arrive(barrier);
          }
          lane.block_barrier();
          lane.barrier_wait(barrier, 0);
          float sums[32];
          lane.start_products();
          for (int step = 0; step < 4; ++step) {
            const std::uint64_t operand =
                cuda::sm90::advanced(cuda::sm90::row_operand(lane.shared_address(shared)),
                                     cuda::sm90::row_operand_step(64, step));
            lane.shared_product<cuda::AttentionElement::bf16>(sums, operand, operand, step > 0);
          }
          lane.close_group();
          lane.wait_groups<0>();
          for (int i = 0; i < 32; ++i) {
            const auto at = cuda::sm90::accumulator_coordinate(lane.thread(), i);
            // Tokens 80 to 127 are there, what follows arrives as zeros.
            require(sums[i] == (at.row < 48 && at.column < 48 ? 64.0F : 0.0F), "sum ({}, {}) is {}",
                    at.row, at.column, sums[i]);
          }
        },
        {.late_copies = late, .late_products = late, .last_warp_first = late});
  }
}

}  // namespace
}  // namespace portolan::testing_support
