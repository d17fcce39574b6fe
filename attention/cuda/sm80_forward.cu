// SPDX-License-Identifier: Apache-2.0
#include "attention/cuda/cuda_lane.cuh"
#include "attention/cuda/sm80_forward_tile.hpp"
#include "attention/cuda/sm80_kernels.hpp"
#include "attention/cuda/sm80_launch.cuh"

namespace portolan::cuda::sm80 {
namespace {

template <AttentionElement Element, int HeadDim>
__global__ void __launch_bounds__(ForwardTiles<HeadDim>::kThreads, 2)
    forward_kernel(const __grid_constant__ AttentionForwardArguments arguments) {
  const CudaLane lane;
  forward_tile<Element, HeadDim>(lane, arguments,
                                 block_index(static_cast<int>(arguments.shape.heads), true));
}

}  // namespace

cudaError_t forward(const AttentionForwardArguments& arguments, cudaStream_t stream) {
  return with_constants(arguments.shape, [&](auto element, auto head_dim) {
    using Tiles = ForwardTiles<head_dim()>;
    return launch(&forward_kernel<element(), head_dim()>, arguments, arguments.shape.heads,
                  divide_up(arguments.shape.query_tokens, Tiles::kQueries), Tiles::kThreads,
                  Tiles::kSharedBytes, stream);
  });
}

}  // namespace portolan::cuda::sm80
