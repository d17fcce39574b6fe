// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "attention/cuda/sm90_lane.cuh"

namespace portolan::cuda::sm90 {

/// Runs `Block`, one of the sm90_*_block.hpp over HopperLane. One block on a multiprocessor: its
/// threads and its shared memory leave no room for a second, and register budgets need the bound.
template <typename Block>
__global__ void __launch_bounds__(Block::kThreads, 1)
    run_block(const __grid_constant__ typename Block::Parameters parameters) {
  extern __shared__ std::byte dynamic_memory[];
  // The driver promises dynamic shared memory 16 bytes of alignment only; kSharedBytes has the
  // rest.
  constexpr std::uintptr_t kAlignment = alignof(typename Block::Shared);
  const auto address = reinterpret_cast<std::uintptr_t>(dynamic_memory);
  auto& shared = *reinterpret_cast<typename Block::Shared*>(
      dynamic_memory + (kAlignment - address % kAlignment) % kAlignment);
  const HopperLane lane;
  Block(lane, parameters, shared).run();
}

template <typename Block>
[[nodiscard]] cudaError_t launch(std::int64_t blocks, const typename Block::Parameters& parameters,
                                 cudaStream_t stream) {
  constexpr int kSharedBytes =
      static_cast<int>(sizeof(typename Block::Shared) + alignof(typename Block::Shared));
  static_assert(kSharedBytes <= 227 * 1024, "more shared memory than a block may have");
  const cudaError_t status = cudaFuncSetAttribute(
      run_block<Block>, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes);
  if (status != cudaSuccess) {
    return status;
  }
  run_block<Block>
      <<<static_cast<unsigned>(blocks), Block::kThreads, kSharedBytes, stream>>>(parameters);
  return cudaGetLastError();
}

/// function.template operator()<element, head_dim>() of the instantiation that serves the shape: 64
/// or 128, as is enough for its head_dim.
template <typename Function>
[[nodiscard]] cudaError_t with_instantiation(const AttentionShape& shape,
                                             const Function& function) {
  const bool wide = shape.head_dim > 64;
  if (shape.element == AttentionElement::bf16) {
    return wide ? function.template operator()<AttentionElement::bf16, 128>()
                : function.template operator()<AttentionElement::bf16, 64>();
  }
  return wide ? function.template operator()<AttentionElement::f16, 128>()
              : function.template operator()<AttentionElement::f16, 64>();
}

/// Without the window if it is as long as the keys, which it then cuts nothing off: what is left
/// fits the kernels' integers.
[[nodiscard]] inline AttentionShape without_vain_window(AttentionShape shape) {
  if (shape.window > 0) {
    shape.causal = true;
  }
  if (shape.window >= shape.key_tokens) {
    shape.window = 0;
  }
  return shape;
}

}  // namespace portolan::cuda::sm90
