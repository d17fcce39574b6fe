// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "attention/cuda/attention_arguments.hpp"
#include "attention/cuda/device_function.hpp"
#include "attention/cuda/lane.hpp"

namespace portolan::cuda::sm80 {

/// One thread of a block. Addresses of shared memory are byte offsets into the block's dynamic
/// shared memory.
class CudaLane {
 public:
  __device__ __forceinline__ CudaLane() {
    extern __shared__ __align__(1024) unsigned char dynamic_shared_memory[];
    memory_ = dynamic_shared_memory;
    base_ = static_cast<std::uint32_t>(__cvta_generic_to_shared(memory_));
  }

  __device__ __forceinline__ int thread() const { return static_cast<int>(threadIdx.x); }
  __device__ __forceinline__ void block_barrier() const { __syncthreads(); }
  __device__ __forceinline__ void warp_barrier() const { __syncwarp(); }
  __device__ __forceinline__ float shuffle_xor(float value, int mask) const {
    return __shfl_xor_sync(0xFFFFFFFFU, value, mask);
  }

  /// Four matrices of 8 x 8 16-bit elements, whose rows the lanes 8 i to 8 i + 7 point to.
  __device__ __forceinline__ void load_matrices(std::uint32_t (&out)[4],
                                                std::uint32_t offset) const {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(base_ + offset)
                 : "memory");
  }
  __device__ __forceinline__ void load_transposed_matrices(std::uint32_t (&out)[4],
                                                           std::uint32_t offset) const {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(base_ + offset)
                 : "memory");
  }
  /// sums += a b, of 16 x 16 and 16 x 8 elements.
  template <AttentionElement Element>
  __device__ __forceinline__ void multiply_add(float (&sums)[4], const std::uint32_t (&a)[4],
                                               std::uint32_t b0, std::uint32_t b1) const {
    if constexpr (Element == AttentionElement::bf16) {
      asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
          "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
          : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
          : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
    } else {
      asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
          "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
          : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
          : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
    }
  }

  /// Starts a copy of 16 bytes to shared memory, zeros if `valid` is false.
  __device__ __forceinline__ void copy_chunk(std::uint32_t offset, const void* source,
                                             bool valid) const {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 :
                 : "r"(base_ + offset), "l"(__cvta_generic_to_global(source)), "r"(valid ? 16 : 0)
                 : "memory");
  }
  /// The same for 4 bytes.
  __device__ __forceinline__ void copy_word(std::uint32_t offset, const void* source,
                                            bool valid) const {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;"
                 :
                 : "r"(base_ + offset), "l"(__cvta_generic_to_global(source)), "r"(valid ? 4 : 0)
                 : "memory");
  }
  /// Closes a group of the copies that this thread has started since the previous one.
  __device__ __forceinline__ void close_copies() const {
    asm volatile("cp.async.commit_group;" ::: "memory");
  }
  /// Until all groups of this thread but the last `Pending` have arrived. Other threads see what
  /// arrived after a barrier.
  template <int Pending>
  __device__ __forceinline__ void wait_copies() const {
    asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
  }

  template <typename T>
  __device__ __forceinline__ T load(std::uint32_t offset) const {
    return *reinterpret_cast<const T*>(memory_ + offset);
  }
  template <typename T>
  __device__ __forceinline__ void store(std::uint32_t offset, const T& value) const {
    *reinterpret_cast<T*>(memory_ + offset) = value;
  }

  /// The same value, of which the compiler knows nothing: what follows from it is then computed
  /// where it is used, rather than ahead of loops into registers that they need.
  __device__ __forceinline__ std::uint32_t opaque(std::uint32_t value) const {
    asm volatile("" : "+r"(value));
    return value;
  }

  /// Two elements in a register, the first in its lower half.
  template <AttentionElement Element>
  __device__ __forceinline__ std::uint32_t pack(float first, float second) const {
    if constexpr (Element == AttentionElement::bf16) {
      const __nv_bfloat162 pair = __floats2bfloat162_rn(first, second);
      return *reinterpret_cast<const std::uint32_t*>(&pair);
    } else {
      const __half2 pair = __floats2half2_rn(first, second);
      return *reinterpret_cast<const std::uint32_t*>(&pair);
    }
  }
  __device__ __forceinline__ float exp2(float x) const {
    float y = 0.0F;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
  }
  __device__ __forceinline__ float log2(float x) const { return __log2f(x); }

 private:
  unsigned char* memory_;
  std::uint32_t base_;
};

}  // namespace portolan::cuda::sm80
