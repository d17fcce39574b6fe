// SPDX-License-Identifier: Apache-2.0
#include "tests/unit/emulated_hopper_lane.hpp"

#include <utility>

#include "core/error.hpp"
#include "tests/unit/element_bits.hpp"
#include "tests/unit/emulated_hopper_block.hpp"

namespace portolan::testing_support {
namespace {

using hopper::Barrier;
using hopper::Box;
using hopper::kGroupThreads;
using hopper::NamedBarrier;
using hopper::Thread;

}  // namespace

std::uint32_t EmulatedHopperLane::shared_address(const void* pointer) const {
  return block_->offset_of(pointer, 1);
}

void EmulatedHopperLane::barrier_init(std::uint64_t& barrier, int arrivals) const {
  block_->init_barrier(barrier, arrivals);
}

void EmulatedHopperLane::barrier_arrive(std::uint64_t& barrier) const {
  Barrier& state = block_->barrier(barrier);
  if (state.missing == 0) throw Error("more threads come to a barrier than it expects");
  --state.missing;
  state.check();
}

void EmulatedHopperLane::barrier_announce(std::uint64_t& barrier, std::size_t bytes) const {
  block_->barrier(barrier).missing_bytes += static_cast<std::int64_t>(bytes);
}

void EmulatedHopperLane::barrier_wait(std::uint64_t& barrier, std::uint32_t parity) const {
  const Barrier& state = block_->barrier(barrier);
  block_->wait(thread_, "a barrier in shared memory",
               [&state, parity] { return (state.phase & 1U) != parity; });
}

void EmulatedHopperLane::copy_box_in(const TensorMap* map, cuda::sm90::BoxOrigin origin,
                                     void* target, std::uint64_t& barrier) const {
  block_->start_copy_in({map, origin, static_cast<std::byte*>(target), &block_->barrier(barrier)});
}

void EmulatedHopperLane::copy_box_out(const TensorMap* map, cuda::sm90::BoxOrigin origin,
                                      const void* source) const {
  const int first = thread_ / kGroupThreads * kGroupThreads;
  for (int i = first; i < first + kGroupThreads; ++i) {
    if (block_->thread(i).unfenced_writes) throw Error("a copy of what no fence has made visible");
  }
  auto* shared = const_cast<std::byte*>(static_cast<const std::byte*>(source));
  const Box box = {map, origin, shared, nullptr};
  if (!block_->liberties().late_copies) block_->copy_out(box);
  block_->thread(thread_).open_copies.push_back(box);
}

void EmulatedHopperLane::close_copies_out() const {
  Thread& self = block_->thread(thread_);
  self.closed_copies.insert(self.closed_copies.end(), self.open_copies.begin(),
                            self.open_copies.end());
  self.open_copies.clear();
}

void EmulatedHopperLane::wait_copies_out_read() const {
  Thread& self = block_->thread(thread_);
  if (block_->liberties().late_copies) {
    for (const Box& box : self.closed_copies) block_->copy_out(box);
  }
  self.closed_copies.clear();
}

void EmulatedHopperLane::fence_shared_writes() const {
  block_->thread(thread_).unfenced_writes = false;
}

void EmulatedHopperLane::block_barrier() const { block_->meet_block(thread_); }

void EmulatedHopperLane::warp_barrier() const { block_->meet_warp(thread_); }

void EmulatedHopperLane::named_barrier_wait(int id, int threads) const {
  NamedBarrier* barrier = nullptr;
  const int generation = block_->come_to_named(id, threads, barrier);
  block_->wait(thread_, "a named barrier",
               [barrier, generation] { return barrier->generation != generation; });
}

void EmulatedHopperLane::named_barrier_arrive(int id, int threads) const {
  NamedBarrier* barrier = nullptr;
  block_->come_to_named(id, threads, barrier);
}

float EmulatedHopperLane::shuffle_xor(float value, int mask) const {
  return block_->shuffle_xor(thread_, value, mask);
}

/// PTX ISA, stmatrix: lanes 8 i to 8 i + 7 point to the rows of matrix i; lane l holds elements
/// 2 (l % 4) and the next of row l / 4 of each matrix.
void EmulatedHopperLane::store_matrices(std::uint32_t address,
                                        const std::uint32_t (&registers)[4]) const {
  struct Rows {
    std::uint32_t address;
    const std::uint32_t* registers;
  } own{address, registers};
  block_->thread(thread_).unfenced_writes = true;
  const int first = first_of_warp(thread_);
  block_->meet_warp(thread_, "matrix store", &own, [&] {
    for (int lane = 0; lane < kWarpThreads; ++lane) {
      for (int matrix = 0; matrix < 4; ++matrix) {
        const std::uint32_t row = block_->brought<Rows>(first + matrix * 8 + lane / 4).address;
        if (row % 16 != 0) throw Error("a matrix row that is not aligned to 16 bytes");
        for (int half = 0; half < 2; ++half) {
          block_->element(row + static_cast<std::uint32_t>((lane % 4 * 2 + half) * 2)) =
              half_of(block_->brought<Rows>(first + lane).registers[matrix], half);
        }
      }
    }
  });
}

void EmulatedHopperLane::start_products() const { block_->thread(thread_).fenced = true; }

void EmulatedHopperLane::product(const Product& product) const {
  Thread& self = block_->thread(thread_);
  if (!self.fenced) throw Error("a product that no fence precedes");
  self.open_products.push_back(product);
}

void EmulatedHopperLane::close_group() const {
  Thread& self = block_->thread(thread_);
  self.groups.push_back(std::move(self.open_products));
  self.open_products.clear();
  if (!block_->liberties().late_products) {
    block_->meet_warpgroup(
        thread_, "end of a group of products", [&] { block_->run_groups(thread_, 0); }, false);
  }
}

void EmulatedHopperLane::wait_groups(int pending) const {
  block_->thread(thread_).fenced = false;
  block_->meet_warpgroup(
      thread_, "wait for products",
      [&] { block_->run_groups(thread_, static_cast<std::size_t>(pending)); },
      block_->liberties().late_products);
}

void EmulatedHopperLane::change_registers(int registers) const {
  block_->thread(thread_).registers = registers;
  block_->check_registers();
}

void run_emulated_hopper_block(
    int threads, std::size_t shared_bytes, HopperLiberties liberties, int block_index, int blocks,
    const std::function<void(const EmulatedHopperLane&, std::byte* shared)>& body) {
  require(threads > 0 && threads % kGroupThreads == 0,
          "a block has whole warpgroups, found {} threads", threads);
  hopper::Block(threads, shared_bytes, liberties, block_index, blocks, body).run();
}

}  // namespace portolan::testing_support
