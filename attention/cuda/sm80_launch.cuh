// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <type_traits>

#include "attention/cuda/attention_arguments.hpp"
#include "attention/cuda/lane.hpp"

/// What starting kernels of this folder has in common.
namespace portolan::cuda::sm80 {

/// Blocks: heads and batch entries in x, tiles in y. The GPU starts blocks in the order of x, then
/// y, so that blocks which read the same keys run at about the same time; kernels count tiles from
/// the last one down where that one has the most to do under a causal mask.
__device__ __forceinline__ BlockIndex block_index(int heads, bool descending) {
  const int tile = static_cast<int>(descending ? gridDim.y - 1 - blockIdx.y : blockIdx.y);
  return {tile, static_cast<int>(blockIdx.x) % heads, static_cast<int>(blockIdx.x) / heads};
}

template <typename Arguments>
cudaError_t launch(void (*kernel)(Arguments), const Arguments& arguments, std::int64_t heads,
                   std::int64_t tiles, int threads, std::uint32_t shared_bytes,
                   cudaStream_t stream) {
  const std::int64_t columns = heads * arguments.shape.batch;
  if (columns == 0 || tiles == 0) return cudaSuccess;
  if (columns > 0x7FFFFFFF || tiles > 0xFFFF) return cudaErrorInvalidConfiguration;
  const cudaError_t status = cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                                  cudaFuncAttributeMaxDynamicSharedMemorySize,
                                                  static_cast<int>(shared_bytes));
  if (status != cudaSuccess) return status;
  const dim3 grid(static_cast<unsigned>(columns), static_cast<unsigned>(tiles));
  kernel<<<grid, static_cast<unsigned>(threads), shared_bytes, stream>>>(arguments);
  return cudaGetLastError();
}

constexpr std::int64_t divide_up(std::int64_t value, std::int64_t divisor) {
  return (value + divisor - 1) / divisor;
}

/// Calls `launcher` with the element type and head_dim of the shape as constants.
template <typename Launcher>
cudaError_t with_constants(const AttentionShape& shape, const Launcher& launcher) {
  const auto with_head_dim = [&](auto element) {
    if (shape.head_dim == 64) return launcher(element, std::integral_constant<int, 64>());
    if (shape.head_dim == 128) return launcher(element, std::integral_constant<int, 128>());
    return cudaErrorInvalidValue;
  };
  using Bf16 = std::integral_constant<AttentionElement, AttentionElement::bf16>;
  using F16 = std::integral_constant<AttentionElement, AttentionElement::f16>;
  return shape.element == AttentionElement::bf16 ? with_head_dim(Bf16()) : with_head_dim(F16());
}

}  // namespace portolan::cuda::sm80
