// SPDX-License-Identifier: Apache-2.0
#include "attention/cuda/sm90_backward.hpp"
#include "attention/cuda/sm90_backward_inputs.hpp"
#include "attention/cuda/sm90_backward_queries_block.hpp"
#include "attention/cuda/sm90_lane.cuh"
#include "attention/cuda/sm90_launch.cuh"
#include "attention/cuda/sm90_tensor_maps.hpp"

namespace portolan::cuda::sm90 {
namespace {

using Parameters = BackwardQueriesParameters<CUtensorMap>;

template <AttentionElement kElement, int kHeadDim>
cudaError_t backward_queries_of(const AttentionBackwardArguments& arguments, void* workspace,
                                cudaStream_t stream) {
  using Block = BackwardQueriesBlock<HopperLane, kElement, kHeadDim>;
  const AttentionShape shape = without_vain_window(arguments.shape);
  Parameters parameters = backward_inputs<Block>(arguments, shape);
  parameters.dq = FloatResult(arguments.dq, arguments.output, arguments.dq_strides);
  const std::int64_t blocks = Block::blocks(shape);
  if (blocks == 0) {
    return cudaSuccess;
  }
  TensorDescription tensors[Parameters::kTensors];
  describe_backward_inputs<Block>(arguments, shape, tensors);
  tensors[Parameters::kDq] = {arguments.dq, arguments.dq_strides, shape.heads, true,
                              kWarpgroupRows};
  const cudaError_t status = make_tensor_maps(
      parameters.problem.tensors, shape, tensors,
      parameters.dq.data == nullptr ? Parameters::kTensors : Parameters::kDq, workspace, stream);
  return status == cudaSuccess ? launch<Block>(blocks, parameters, stream) : status;
}

}  // namespace

std::size_t backward_queries_workspace_bytes(const AttentionShape& shape) {
  return tensor_map_bytes(shape, Parameters::kTensors);
}

cudaError_t backward_queries(const AttentionBackwardArguments& arguments, void* workspace,
                             cudaStream_t stream) {
  return with_instantiation(arguments.shape, [&]<AttentionElement kElement, int kHeadDim>() {
    return backward_queries_of<kElement, kHeadDim>(arguments, workspace, stream);
  });
}

}  // namespace portolan::cuda::sm90
