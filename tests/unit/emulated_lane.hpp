// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#include "attention/cuda/attention_arguments.hpp"
#include "attention/cuda/lane.hpp"
#include "tests/unit/element_bits.hpp"

/// Blocks of the sm_80 kernels on a CPU: every thread of a block runs as a fibre of its own, so
/// that the kernels' own code is tested where there is no GPU. What the GPU's instructions do is
/// written here from their definition in the PTX ISA, element by element.
namespace portolan::testing_support {

/// How an emulated block takes liberties that the GPU may take, too; kernels must not notice.
struct EmulationOrder {
  /// Copies arrive when they are waited for, else when they are started.
  bool late_copies = false;
  /// The last warp runs first.
  bool last_warp_first = false;
};

class EmulatedBlock;

class EmulatedLane {
 public:
  EmulatedLane(EmulatedBlock& block, int thread) : block_(&block), thread_(thread) {}

  [[nodiscard]] int thread() const { return thread_; }
  void block_barrier() const;
  void warp_barrier() const;
  [[nodiscard]] float shuffle_xor(float value, int mask) const;

  void load_matrices(std::uint32_t (&out)[4], std::uint32_t offset) const {
    load_matrices(out, offset, false);
  }
  void load_transposed_matrices(std::uint32_t (&out)[4], std::uint32_t offset) const {
    load_matrices(out, offset, true);
  }
  template <cuda::AttentionElement Element>
  void multiply_add(float (&sums)[4], const std::uint32_t (&a)[4], std::uint32_t b0,
                    std::uint32_t b1) const {
    multiply_add(Element, sums, a, b0, b1);
  }

  void copy_chunk(std::uint32_t offset, const void* source, bool valid) const {
    copy(offset, source, 16, valid);
  }
  void copy_word(std::uint32_t offset, const void* source, bool valid) const {
    copy(offset, source, 4, valid);
  }
  void close_copies() const;
  template <int Pending>
  void wait_copies() const {
    wait_copies(Pending);
  }

  template <typename T>
  [[nodiscard]] T load(std::uint32_t offset) const {
    T value;
    std::memcpy(&value, shared(offset, sizeof(T)), sizeof(T));
    return value;
  }
  template <typename T>
  void store(std::uint32_t offset, const T& value) const {
    std::memcpy(shared(offset, sizeof(T)), &value, sizeof(T));
  }

  [[nodiscard]] std::uint32_t opaque(std::uint32_t value) const { return value; }
  template <cuda::AttentionElement Element>
  [[nodiscard]] std::uint32_t pack(float first, float second) const {
    return register_of(Element, first, second);
  }
  [[nodiscard]] float exp2(float x) const { return std::exp2(x); }
  [[nodiscard]] float log2(float x) const { return std::log2(x); }

 private:
  void load_matrices(std::uint32_t (&out)[4], std::uint32_t offset, bool transposed) const;
  void multiply_add(cuda::AttentionElement element, float (&sums)[4], const std::uint32_t (&a)[4],
                    std::uint32_t b0, std::uint32_t b1) const;
  void copy(std::uint32_t offset, const void* source, std::size_t bytes, bool valid) const;
  void wait_copies(std::size_t pending) const;
  /// Throws if shared memory has no such bytes, or if they are not aligned to their own size.
  [[nodiscard]] std::byte* shared(std::uint32_t offset, std::size_t bytes) const;

  EmulatedBlock* block_;
  int thread_;
};

/// Runs `body` as each of `threads` threads of a block with so much shared memory, which holds NaN
/// at first. Throws Error where threads of a warp meet at different instructions, where threads
/// wait for others that have ended, and for an access outside of shared memory.
void run_emulated_block(int threads, std::size_t shared_bytes, EmulationOrder order,
                        const std::function<void(const EmulatedLane&)>& body);

}  // namespace portolan::testing_support
