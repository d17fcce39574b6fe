// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "backends/cuda/vector_layout.hpp"
#include "core/dtype.hpp"

/// 16 bytes of elements in a thread's registers, and as f32.
namespace portolan::cuda {

template <typename T>
inline constexpr int kPerVector = static_cast<int>(kVectorBytes / sizeof(T));

/// Aligned to 16 bytes, as loads and stores of it have to be.
template <typename T>
[[nodiscard]] __device__ inline uint4 load_vector(const T* address) {
  return *reinterpret_cast<const uint4*>(address);
}

/// By an intrinsic: the compiler takes some assignments apart.
template <typename T>
__device__ inline void store_vector(T* address, const uint4& bits) {
  __stwb(reinterpret_cast<uint4*>(address), bits);
}

/// Exact.
template <typename T>
__device__ inline void unpack(const uint4& bits, float* values) {
  const std::uint32_t words[4] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if constexpr (std::is_same_v<T, float>) {
      values[i] = __uint_as_float(words[i]);
    } else if constexpr (std::is_same_v<T, BFloat16>) {
      values[2 * i] = __uint_as_float(words[i] << 16);
      values[2 * i + 1] = __uint_as_float(words[i] & 0xFFFF0000U);
    } else {
      __half2 pair;
      memcpy(&pair, &words[i], sizeof(pair));
      const float2 both = __half22float2(pair);
      values[2 * i] = both.x;
      values[2 * i + 1] = both.y;
    }
  }
}

/// To nearest, ties to even.
template <typename T>
[[nodiscard]] __device__ inline uint4 pack(const float* values) {
  std::uint32_t words[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if constexpr (std::is_same_v<T, float>) {
      words[i] = __float_as_uint(values[i]);
    } else if constexpr (std::is_same_v<T, BFloat16>) {
      const __nv_bfloat162 pair = __floats2bfloat162_rn(values[2 * i], values[2 * i + 1]);
      memcpy(&words[i], &pair, sizeof(pair));
    } else {
      const __half2 pair = __floats2half2_rn(values[2 * i], values[2 * i + 1]);
      memcpy(&words[i], &pair, sizeof(pair));
    }
  }
  return make_uint4(words[0], words[1], words[2], words[3]);
}

/// kCount consecutive elements as f32; a whole number of vectors.
template <int kCount, typename T>
__device__ inline void load_floats(const T* address, float (&values)[kCount]) {
  static_assert(kCount % kPerVector<T> == 0);
#pragma unroll
  for (int i = 0; i < kCount; i += kPerVector<T>) {
    unpack<T>(load_vector(address + i), values + i);
  }
}

/// Calls function(T{}) with the element type of f32, bf16 or f16; cudaErrorInvalidValue for others.
template <typename Function>
cudaError_t with_element(DType dtype, const Function& function) {
  switch (dtype) {
    case DType::f32:
      return function(float{});
    case DType::bf16:
      return function(BFloat16{});
    case DType::f16:
      return function(Float16{});
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace portolan::cuda
