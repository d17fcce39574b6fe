// SPDX-License-Identifier: Apache-2.0
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "bench/cuda/delta.hpp"

namespace portolan::cuda_bench {
namespace {

constexpr int kThreads = 256;
constexpr int kLanes = 32;

__device__ float2 widen(std::uint32_t pair, bool is_bf16) {
  if (is_bf16) return __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(&pair));
  return __half22float2(*reinterpret_cast<const __half2*>(&pair));
}

/// A warp for each row of [batch, tokens, heads], two elements a lane at a time.
__global__ void delta_kernel(const std::uint32_t* out, const std::uint32_t* grad_out, float* delta,
                             std::int64_t rows, std::int64_t tokens, std::int64_t heads, int pairs,
                             bool is_bf16) {
  const std::int64_t row =
      (static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x) / kLanes;
  if (row >= rows) return;
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  float sum = 0.0F;
  for (int i = lane; i < pairs; i += kLanes) {
    const float2 a = widen(out[row * pairs + i], is_bf16);
    const float2 b = widen(grad_out[row * pairs + i], is_bf16);
    sum += a.x * b.x + a.y * b.y;
  }
  for (int mask = kLanes / 2; mask > 0; mask /= 2) {
    sum += __shfl_xor_sync(0xFFFFFFFFU, sum, mask);
  }
  if (lane != 0) return;
  const std::int64_t head = row % heads;
  const std::int64_t token = row / heads % tokens;
  const std::int64_t entry = row / (heads * tokens);
  delta[(entry * heads + head) * tokens + token] = sum;
}

}  // namespace

cudaError_t enqueue_delta(const void* out, const void* grad_out, float* delta, std::int64_t batch,
                          std::int64_t tokens, std::int64_t heads, std::int64_t head_dim,
                          bool is_bf16, cudaStream_t stream) {
  const std::int64_t rows = batch * tokens * heads;
  const auto blocks = static_cast<unsigned>((rows * kLanes + kThreads - 1) / kThreads);
  delta_kernel<<<blocks, kThreads, 0, stream>>>(
      static_cast<const std::uint32_t*>(out), static_cast<const std::uint32_t*>(grad_out), delta,
      rows, tokens, heads, static_cast<int>(head_dim / 2), is_bf16);
  return cudaGetLastError();
}

}  // namespace portolan::cuda_bench
