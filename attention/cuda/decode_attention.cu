// SPDX-License-Identifier: Apache-2.0
#include "attention/cuda/cuda_lane.cuh"
#include "attention/cuda/decode_attention.hpp"
#include "attention/cuda/decode_tile.hpp"
#include "attention/cuda/sm80_launch.cuh"
#include "attention/cuda/unsupported_reason.hpp"

namespace portolan::cuda {
namespace {

using sm80::CudaLane;

constexpr int kMergeThreads = 128;

struct DecodeArguments {
  AttentionForwardArguments forward;
  AttentionShape shape;  ///< where launch() looks for it
  float* workspace = nullptr;
};

template <AttentionElement Element, int HeadDim>
__global__ void __launch_bounds__(sm80::DecodeTiles<HeadDim>::kThreads, 2)
    decode_kernel(const __grid_constant__ DecodeArguments arguments) {
  const CudaLane lane;
  sm80::decode_tile<Element, HeadDim>(
      lane, arguments.forward, arguments.workspace,
      sm80::block_index(static_cast<int>(arguments.shape.key_heads), false));
}

template <AttentionElement Element, int HeadDim>
__global__ void __launch_bounds__(kMergeThreads)
    merge_kernel(const __grid_constant__ DecodeArguments arguments) {
  constexpr int kParts = HeadDim / 8;
  const CudaLane lane;
  const std::int64_t index =
      static_cast<std::int64_t>(blockIdx.x) * kMergeThreads + static_cast<int>(threadIdx.x);
  const std::int64_t row = index / kParts;
  const AttentionShape& shape = arguments.shape;
  if (row >= shape.batch * shape.heads * shape.query_tokens) return;
  sm80::merge_splits<Element>(lane, arguments.forward, arguments.workspace, row,
                              static_cast<int>(index % kParts));
}

}  // namespace

const char* decode_unsupported_reason(const AttentionShape& shape) {
  return decode_kernel_unsupported_reason(shape);
}

std::size_t decode_workspace_bytes(const AttentionShape& shape) {
  return DecodeWorkspace(shape, DecodePlan(shape)).bytes();
}

cudaError_t attention_decode(const AttentionForwardArguments& arguments, void* workspace,
                             cudaStream_t stream) {
  const AttentionShape& shape = arguments.shape;
  if (decode_unsupported_reason(shape) != nullptr) return cudaErrorInvalidValue;
  const DecodePlan plan(shape);
  const DecodeArguments all{arguments, shape, static_cast<float*>(workspace)};
  return sm80::with_constants(shape, [&](auto element, auto head_dim) {
    using Tiles = sm80::DecodeTiles<head_dim()>;
    const cudaError_t status =
        sm80::launch(&decode_kernel<element(), head_dim()>, all, shape.key_heads,
                     static_cast<std::int64_t>(plan.splits) * plan.row_tiles, Tiles::kThreads,
                     Tiles::kSharedBytes, stream);
    const std::int64_t parts =
        shape.batch * shape.heads * shape.query_tokens * (shape.head_dim / 8);
    if (status != cudaSuccess || plan.splits == 1 || parts == 0) return status;
    const std::int64_t blocks = sm80::divide_up(parts, kMergeThreads);
    merge_kernel<element(), head_dim()>
        <<<static_cast<unsigned>(blocks), kMergeThreads, 0, stream>>>(all);
    return cudaGetLastError();
  });
}

}  // namespace portolan::cuda
