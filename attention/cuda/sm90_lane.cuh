// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda.h>

#include <cstddef>
#include <cstdint>

#include "attention/cuda/attention_arguments.hpp"
#include "attention/cuda/device_function.hpp"
#include "attention/cuda/sm90_buffers.hpp"
#include "attention/cuda/sm90_products.cuh"

namespace portolan::cuda::sm90 {

/// One thread's view of a GPU of compute capability 9.0: a function for each instruction that the
/// attention kernels use (PTX ISA: mbarrier, cp.async.bulk.tensor, wgmma, setmaxnreg, named
/// barriers). Addresses of shared memory that instructions take are 32-bit offsets in the shared
/// window.
class HopperLane {
 public:
  using TensorMap = CUtensorMap;

  PORTOLAN_DEVICE int thread() const { return static_cast<int>(threadIdx.x); }
  PORTOLAN_DEVICE int block() const { return static_cast<int>(blockIdx.x); }
  PORTOLAN_DEVICE int blocks() const { return static_cast<int>(gridDim.x); }

  PORTOLAN_DEVICE std::uint32_t shared_address(const void* pointer) const {
    return static_cast<std::uint32_t>(__cvta_generic_to_shared(pointer));
  }

  // ---- Barriers in shared memory ---------------------------------------------------------------

  /// A barrier completes a phase when `arrivals` threads have arrived and all announced bytes have
  /// been copied.
  PORTOLAN_DEVICE void barrier_init(std::uint64_t& barrier, int arrivals) const {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(&barrier)),
                 "r"(arrivals)
                 : "memory");
  }
  /// Makes initialised barriers visible to the copy engine; block_barrier() has to follow.
  PORTOLAN_DEVICE void barriers_initialised() const {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  }
  PORTOLAN_DEVICE void barrier_arrive(std::uint64_t& barrier) const {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(&barrier))
                 : "memory");
  }
  /// Announces bytes that copies will bring in the current phase, without arriving.
  PORTOLAN_DEVICE void barrier_announce(std::uint64_t& barrier, int bytes) const {
    asm volatile(
        "mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%0], %1;" ::"r"(shared_address(&barrier)),
        "r"(bytes)
        : "memory");
  }
  /// Waits until the phase of this parity is complete. Phases count from 0; on a fresh barrier
  /// parity 1 stands for the phase before the first, which is complete.
  PORTOLAN_DEVICE void barrier_wait(std::uint64_t& barrier, std::uint32_t parity) const {
    const std::uint32_t address = shared_address(&barrier);
    std::uint32_t complete = 0;
    do {
      asm volatile(
          "{\n"
          ".reg .pred p;\n"
          "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
          "selp.u32 %0, 1, 0, p;\n"
          "}"
          : "=r"(complete)
          : "r"(address), "r"(parity)
          : "memory");
    } while (complete == 0);
  }

  // ---- Tensor copies ---------------------------------------------------------------------------

  /// Starts the copy of a box into shared memory; its bytes count towards `barrier`'s. What lies
  /// outside of the tensor arrives as zeros and counts too.
  PORTOLAN_DEVICE void copy_box_in(const TensorMap* map, BoxOrigin origin, void* target,
                                   std::uint64_t& barrier) const {
    asm volatile(
        "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes"
        " [%0], [%1, {%2, %3, %4, %5}], [%6];" ::"r"(shared_address(target)),
        "l"(map), "r"(origin.column), "r"(origin.head), "r"(origin.token), "r"(origin.entry),
        "r"(shared_address(&barrier))
        : "memory");
  }
  /// Starts the copy of a box out of shared memory; what lies outside of the tensor is not written.
  PORTOLAN_DEVICE void copy_box_out(const TensorMap* map, BoxOrigin origin,
                                    const void* source) const {
    asm volatile(
        "cp.async.bulk.tensor.4d.global.shared::cta.bulk_group [%0, {%1, %2, %3, %4}], [%5];" ::"l"(
            map),
        "r"(origin.column), "r"(origin.head), "r"(origin.token), "r"(origin.entry),
        "r"(shared_address(source))
        : "memory");
  }
  /// Closes a group of outgoing copies: those of this thread that were started since the last.
  PORTOLAN_DEVICE void close_copies_out() const {
    asm volatile("cp.async.bulk.commit_group;" ::: "memory");
  }
  /// Waits until all of this thread's closed groups have read their shared memory.
  PORTOLAN_DEVICE void wait_copies_out_read() const {
    asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
  }
  /// Orders this thread's ordinary writes of shared memory before what the copy engine reads after
  /// the next barrier.
  PORTOLAN_DEVICE void fence_shared_writes() const {
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  }
  /// Before the first use of a tensor map that a kernel has written to device memory.
  PORTOLAN_DEVICE void acquire_tensor_map(const TensorMap* map) const {
    asm volatile("fence.proxy.tensormap::generic.acquire.gpu [%0], 128;" ::"l"(map) : "memory");
  }

  // ---- Threads ---------------------------------------------------------------------------------

  PORTOLAN_DEVICE void block_barrier() const { __syncthreads(); }
  PORTOLAN_DEVICE void warp_barrier() const { __syncwarp(); }
  /// Waits at named barrier `id` (1 to 15) until `threads` have come to it.
  PORTOLAN_DEVICE void named_barrier_wait(int id, int threads) const {
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
  }
  /// Comes to a named barrier without waiting.
  PORTOLAN_DEVICE void named_barrier_arrive(int id, int threads) const {
    asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
  }
  PORTOLAN_DEVICE float shuffle_xor(float value, int mask) const {
    return __shfl_xor_sync(~0U, value, mask);
  }
  /// The same value, of which all threads of the warp have the same. The compiler cannot know that
  /// of what follows from thread(); told so, it computes what follows from the value once for the
  /// warp, in uniform registers, where products want their descriptors.
  PORTOLAN_DEVICE int warp_uniform(int value) const { return __shfl_sync(~0U, value, 0); }
  /// A number from a counter in device memory that no other thread gets.
  PORTOLAN_DEVICE int take_number(int* counter) const { return atomicAdd(counter, 1); }

  /// Gives registers of this warpgroup back, or takes more: `kRegisters` for each thread.
  template <int kRegisters>
  PORTOLAN_DEVICE void shrink_registers() const {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
  }
  template <int kRegisters>
  PORTOLAN_DEVICE void grow_registers() const {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
  }

  // ---- Arithmetic ------------------------------------------------------------------------------

  /// 2^x; 0 for minus infinity.
  PORTOLAN_DEVICE float exp2(float x) const {
    float result = 0.0F;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
    return result;
  }
  PORTOLAN_DEVICE float log2(float x) const { return log2f(x); }
  PORTOLAN_DEVICE float maximum(float a, float b) const { return fmaxf(a, b); }
  PORTOLAN_DEVICE float multiply_add(float a, float b, float c) const { return fmaf(a, b, c); }

  /// Two elements in a register, the first in the low half.
  template <AttentionElement kElement>
  PORTOLAN_DEVICE std::uint32_t pack(float first, float second) const {
    std::uint32_t packed = 0;
    if constexpr (kElement == AttentionElement::bf16) {
      asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(second), "f"(first));
    } else {
      asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(second), "f"(first));
    }
    return packed;
  }
  /// Four 8 x 8 matrices of 16-bit elements from a warp's registers to shared memory; each lane
  /// gives the address of one row (sm90_layout.hpp, store_coordinate()).
  PORTOLAN_DEVICE void store_matrices(std::uint32_t address,
                                      const std::uint32_t (&registers)[4]) const {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address),
                 "r"(registers[0]), "r"(registers[1]), "r"(registers[2]), "r"(registers[3])
                 : "memory");
  }

  // ---- Products of a warpgroup -----------------------------------------------------------------
  // They run asynchronously: start_products(), any number of them, close_group(), and wait_groups()
  // before their accumulators, or the registers or shared memory they read, may be touched again.

  /// Orders what threads wrote to registers before the products that are started next.
  PORTOLAN_DEVICE void start_products() const {
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
  }
  PORTOLAN_DEVICE void close_group() const {
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
  }
  /// Waits until at most the `kPending` latest groups are not complete.
  template <int kPending>
  PORTOLAN_DEVICE void wait_groups() const {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
  }
  /// Keeps the compiler from moving reads and writes of accumulators or operands across products,
  /// which for it end where they are started.
  template <int kCount>
  PORTOLAN_DEVICE void pin(float (&registers)[kCount]) const {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      asm volatile("" : "+f"(registers[i])::"memory");
    }
  }
  template <int kCount>
  PORTOLAN_DEVICE void pin(std::uint32_t (&registers)[kCount]) const {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      asm volatile("" : "+r"(registers[i])::"memory");
    }
  }
  /// d = A B^T, or d += A B^T: descriptors of operands in shared memory (row_operand()).
  template <AttentionElement kElement, int kCount>
  PORTOLAN_DEVICE void shared_product(float (&d)[kCount], std::uint64_t a, std::uint64_t b,
                                      bool accumulate) const {
    sm90::shared_product<kElement>(d, a, b, accumulate);
  }
  /// d += A B: A is the four registers from a[first] on, B a descriptor (column_operand()).
  template <AttentionElement kElement, int kCount, int kRegisters>
  PORTOLAN_DEVICE void register_product(float (&d)[kCount], const std::uint32_t (&a)[kRegisters],
                                        int first, std::uint64_t b) const {
    sm90::register_product<kElement>(d, a[first], a[first + 1], a[first + 2], a[first + 3], b);
  }
};

}  // namespace portolan::cuda::sm90
