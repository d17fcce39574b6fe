// SPDX-License-Identifier: Apache-2.0
#include <cstddef>

#include "attention/cuda/sm90_forward_block.hpp"
#include "attention/cuda/sm90_kernels.hpp"
#include "attention/cuda/sm90_lane.cuh"
#include "attention/cuda/sm90_launch.cuh"
#include "attention/cuda/sm90_tensor_maps.hpp"

namespace portolan::cuda::sm90 {
namespace {

using Parameters = ForwardParameters<CUtensorMap>;

/// The workspace starts with the counter of tiles; tensor maps follow, aligned.
constexpr std::size_t kCounterBytes = 256;
/// Keys and values of heads that are worked on at the same time: well below the 50 MiB of L2 cache,
/// of which each half of the chip sees the far half through the near one.
constexpr std::int64_t kSectionBytes = std::int64_t{32} << 20;

template <AttentionElement kElement, int kHeadDim>
cudaError_t forward_of(const AttentionForwardArguments& arguments, void* workspace,
                       cudaStream_t stream) {
  using Block = ForwardBlock<HopperLane, kElement, kHeadDim>;
  const AttentionShape shape = without_vain_window(arguments.shape);
  Parameters parameters{};
  parameters.problem.shape = shape;
  parameters.problem.statistics_stride = arguments.log_sum_exp_stride;
  parameters.log_sum_exp = arguments.log_sum_exp;
  parameters.out = FloatResult(arguments.out, arguments.output, arguments.out_strides);
  parameters.next_tile = static_cast<int*>(workspace);
  parameters.order.query_tiles = divide_up(static_cast<int>(shape.query_tokens), Block::kQueries);
  parameters.order.heads = static_cast<int>(shape.batch * shape.heads);
  parameters.order.section_heads =
      heads_in_section(shape.key_tokens, kHeadDim, shape.heads / shape.key_heads,
                       shape.batch * shape.heads, kSectionBytes);
  if (parameters.order.tiles() == 0) {
    return cudaSuccess;
  }

  TensorDescription tensors[Parameters::kTensors];
  tensors[Parameters::kQ] = {arguments.q, arguments.q_strides, shape.heads, true, Block::kQueries};
  tensors[Parameters::kK] = {arguments.k, arguments.k_strides, shape.key_heads, false,
                             Block::kKeys};
  tensors[Parameters::kV] = {arguments.v, arguments.v_strides, shape.key_heads, false,
                             Block::kKeys};
  tensors[Parameters::kOut] = {arguments.out, arguments.out_strides, shape.heads, true,
                               kWarpgroupRows};
  int device = 0;
  int processors = 0;
  cudaError_t status =
      make_tensor_maps(parameters.problem.tensors, shape, tensors,
                       parameters.out.data == nullptr ? Parameters::kTensors : Parameters::kOut,
                       static_cast<std::byte*>(workspace) + kCounterBytes, stream);
  if (status == cudaSuccess) {
    status = cudaMemsetAsync(workspace, 0, kCounterBytes, stream);
  }
  if (status == cudaSuccess) {
    status = cudaGetDevice(&device);
  }
  if (status == cudaSuccess) {
    status = cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
  }
  if (status != cudaSuccess) {
    return status;
  }
  return launch<Block>(smaller(parameters.order.tiles(), processors), parameters, stream);
}

}  // namespace

std::size_t forward_workspace_bytes(const AttentionShape& shape) {
  return kCounterBytes + tensor_map_bytes(shape, Parameters::kTensors);
}

cudaError_t forward(const AttentionForwardArguments& arguments, void* workspace,
                    cudaStream_t stream) {
  if (forward_unsupported_reason(arguments.shape) != nullptr) {
    return cudaErrorInvalidValue;
  }
  return with_instantiation(arguments.shape, [&]<AttentionElement kElement, int kHeadDim>() {
    return forward_of<kElement, kHeadDim>(arguments, workspace, stream);
  });
}

}  // namespace portolan::cuda::sm90
