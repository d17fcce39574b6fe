// SPDX-License-Identifier: Apache-2.0
#include "attention/cuda/cuda_lane.cuh"
#include "attention/cuda/sm80_backward_tile.hpp"
#include "attention/cuda/sm80_kernels.hpp"
#include "attention/cuda/sm80_launch.cuh"

namespace portolan::cuda::sm80 {
namespace {

template <AttentionElement Element, int HeadDim>
__global__ void __launch_bounds__(QueryGradientTiles<HeadDim>::kThreads, 2)
    query_gradient_kernel(const __grid_constant__ AttentionBackwardArguments arguments) {
  const CudaLane lane;
  query_gradient_tile<Element, HeadDim>(lane, arguments,
                                        block_index(static_cast<int>(arguments.shape.heads), true));
}

/// The first keys are those that the most queries see.
template <AttentionElement Element, int HeadDim>
__global__ void __launch_bounds__(KeyGradientTiles<HeadDim>::kThreads, 2)
    key_gradient_kernel(const __grid_constant__ AttentionBackwardArguments arguments) {
  const CudaLane lane;
  key_gradient_tile<Element, HeadDim>(
      lane, arguments, block_index(static_cast<int>(arguments.shape.key_heads), false));
}

}  // namespace

cudaError_t backward(const AttentionBackwardArguments& arguments, cudaStream_t stream) {
  const AttentionShape& shape = arguments.shape;
  return with_constants(shape, [&](auto element, auto head_dim) {
    using QueryTiles = QueryGradientTiles<head_dim()>;
    const cudaError_t status =
        launch(&query_gradient_kernel<element(), head_dim()>, arguments, shape.heads,
               divide_up(shape.query_tokens, QueryTiles::kQueries), QueryTiles::kThreads,
               QueryTiles::kSharedBytes, stream);
    if (status != cudaSuccess) return status;
    using KeyTiles = KeyGradientTiles<head_dim()>;
    return launch(&key_gradient_kernel<element(), head_dim()>, arguments, shape.key_heads,
                  divide_up(shape.key_tokens, KeyTiles::kKeys), KeyTiles::kThreads,
                  KeyTiles::kSharedBytes, stream);
  });
}

}  // namespace portolan::cuda::sm80
