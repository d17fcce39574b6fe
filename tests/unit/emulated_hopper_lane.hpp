// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>

#include "attention/cuda/attention_arguments.hpp"
#include "attention/cuda/sm90_buffers.hpp"
#include "tests/unit/element_bits.hpp"

/// Blocks of the sm_90a kernels on a CPU: every thread of a block runs as a fibre of its own, so
/// that the kernels' own code is tested where there is no such GPU. What the instructions do is
/// written here from their definition in the PTX ISA, element by element, and shares nothing with
/// the kernels' arithmetic of layouts.
namespace portolan::testing_support {

/// Liberties that the GPU may take and the kernels must not notice.
struct HopperLiberties {
  /// Copies into shared memory arrive when no thread can go on without them, and copies out of it
  /// read when they are waited for; else both happen when they are started.
  bool late_copies = false;
  /// Products run when they are waited for and no thread can go on without them, else when their
  /// group is closed.
  bool late_products = false;
  /// Threads of the last warp run first.
  bool last_warp_first = false;
};

/// A tensor [entries, tokens, heads, head_dim] of 16-bit elements. Strides in elements.
struct EmulatedTensorMap {
  std::uint16_t* data = nullptr;
  std::array<std::int64_t, 4> sizes{};    ///< head_dim, heads, tokens, entries
  std::array<std::int64_t, 4> strides{};  ///< the first is 1
  int box_rows = 0;
};

namespace hopper {
class Block;
}

class EmulatedHopperLane {
 public:
  using TensorMap = EmulatedTensorMap;

  EmulatedHopperLane(hopper::Block& block, int thread, int block_index, int blocks)
      : block_(&block), thread_(thread), block_index_(block_index), blocks_(blocks) {}

  [[nodiscard]] int thread() const { return thread_; }
  [[nodiscard]] int block() const { return block_index_; }
  [[nodiscard]] int blocks() const { return blocks_; }
  [[nodiscard]] std::uint32_t shared_address(const void* pointer) const;

  void barrier_init(std::uint64_t& barrier, int arrivals) const;
  void barriers_initialised() const {}
  void barrier_arrive(std::uint64_t& barrier) const;
  void barrier_announce(std::uint64_t& barrier, std::size_t bytes) const;
  void barrier_wait(std::uint64_t& barrier, std::uint32_t parity) const;

  void copy_box_in(const TensorMap* map, cuda::sm90::BoxOrigin origin, void* target,
                   std::uint64_t& barrier) const;
  void copy_box_out(const TensorMap* map, cuda::sm90::BoxOrigin origin, const void* source) const;
  void close_copies_out() const;
  void wait_copies_out_read() const;
  void fence_shared_writes() const;
  void acquire_tensor_map(const TensorMap*) const {}

  void block_barrier() const;
  void warp_barrier() const;
  void named_barrier_wait(int id, int threads) const;
  void named_barrier_arrive(int id, int threads) const;
  [[nodiscard]] float shuffle_xor(float value, int mask) const;
  [[nodiscard]] int warp_uniform(int value) const { return value; }
  [[nodiscard]] int take_number(int* counter) const { return (*counter)++; }
  template <int kRegisters>
  void shrink_registers() const {
    change_registers(kRegisters);
  }
  template <int kRegisters>
  void grow_registers() const {
    change_registers(kRegisters);
  }

  [[nodiscard]] float exp2(float x) const { return std::exp2(x); }
  [[nodiscard]] float log2(float x) const { return std::log2(x); }
  [[nodiscard]] float maximum(float a, float b) const { return std::fmax(a, b); }
  [[nodiscard]] float multiply_add(float a, float b, float c) const { return std::fma(a, b, c); }
  template <cuda::AttentionElement kElement>
  [[nodiscard]] std::uint32_t pack(float first, float second) const {
    return register_of(kElement, first, second);
  }
  void store_matrices(std::uint32_t address, const std::uint32_t (&registers)[4]) const;

  void start_products() const;
  void close_group() const;
  template <int kPending>
  void wait_groups() const {
    wait_groups(kPending);
  }
  template <typename T, int kCount>
  void pin(T (&)[kCount]) const {}
  template <cuda::AttentionElement kElement, int kCount>
  void shared_product(float (&d)[kCount], std::uint64_t a, std::uint64_t b, bool accumulate) const {
    product({.element = kElement,
             .columns = 2 * kCount,
             .sums = d,
             .a_registers = nullptr,
             .a = a,
             .b = b,
             .accumulate = accumulate});
  }
  template <cuda::AttentionElement kElement, int kCount, int kRegisters>
  void register_product(float (&d)[kCount], const std::uint32_t (&a)[kRegisters], int first,
                        std::uint64_t b) const {
    product({.element = kElement,
             .columns = 2 * kCount,
             .sums = d,
             .a_registers = a + first,
             .a = 0,
             .b = b,
             .accumulate = true});
  }

  /// One thread's part in a product of its warpgroup.
  struct Product {
    cuda::AttentionElement element;
    int columns;
    float* sums;                       ///< columns / 2
    const std::uint32_t* a_registers;  ///< null: `a` is a descriptor, and `b`'s sums run along rows
    std::uint64_t a;
    std::uint64_t b;
    bool accumulate;
  };

 private:
  void product(const Product& product) const;
  void wait_groups(int pending) const;
  void change_registers(int registers) const;

  hopper::Block* block_;
  int thread_;
  int block_index_;
  int blocks_;
};

/// Runs `body` as each of `threads` threads of block `block_index` with so much shared memory,
/// which is aligned to 1024 bytes and holds NaN at first. Throws Error for what the GPU does not
/// define: a barrier used before it is initialised or that more come to than it expects, an access
/// outside of shared memory, products that their warpgroup's threads do not agree on or that no
/// fence precedes, a copy of what no fence has made visible, a register budget beyond the block's,
/// threads that wait for what will not come or end with copies that still read shared memory.
void run_emulated_hopper_block(
    int threads, std::size_t shared_bytes, HopperLiberties liberties, int block_index, int blocks,
    const std::function<void(const EmulatedHopperLane&, std::byte* shared)>& body);

}  // namespace portolan::testing_support
