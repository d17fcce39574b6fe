// SPDX-License-Identifier: Apache-2.0
#include "attention/cuda/sm90_backward.hpp"
#include "attention/cuda/sm90_backward_inputs.hpp"
#include "attention/cuda/sm90_backward_keys_block.hpp"
#include "attention/cuda/sm90_lane.cuh"
#include "attention/cuda/sm90_launch.cuh"
#include "attention/cuda/sm90_tensor_maps.hpp"

namespace portolan::cuda::sm90 {
namespace {

using Parameters = BackwardKeysParameters<CUtensorMap>;

template <AttentionElement kElement, int kHeadDim>
cudaError_t backward_keys_of(const AttentionBackwardArguments& arguments, void* workspace,
                             cudaStream_t stream) {
  using Block = BackwardKeysBlock<HopperLane, kElement, kHeadDim>;
  const AttentionShape shape = without_vain_window(arguments.shape);
  Parameters parameters = backward_inputs<Block>(arguments, shape);
  parameters.dk = FloatResult(arguments.dk, arguments.output, arguments.dk_strides);
  parameters.dv = FloatResult(arguments.dv, arguments.output, arguments.dv_strides);
  const std::int64_t blocks = Block::blocks(shape);
  if (blocks == 0) {
    return cudaSuccess;
  }
  TensorDescription tensors[Parameters::kTensors];
  describe_backward_inputs<Block>(arguments, shape, tensors);
  tensors[Parameters::kDk] = {arguments.dk, arguments.dk_strides, shape.key_heads, false,
                              kWarpgroupRows};
  tensors[Parameters::kDv] = {arguments.dv, arguments.dv_strides, shape.key_heads, false,
                              kWarpgroupRows};
  const cudaError_t status = make_tensor_maps(
      parameters.problem.tensors, shape, tensors,
      parameters.dk.data == nullptr ? Parameters::kTensors : Parameters::kDk, workspace, stream);
  return status == cudaSuccess ? launch<Block>(blocks, parameters, stream) : status;
}

}  // namespace

std::size_t backward_keys_workspace_bytes(const AttentionShape& shape) {
  return tensor_map_bytes(shape, Parameters::kTensors);
}

cudaError_t backward_keys(const AttentionBackwardArguments& arguments, void* workspace,
                          cudaStream_t stream) {
  return with_instantiation(arguments.shape, [&]<AttentionElement kElement, int kHeadDim>() {
    return backward_keys_of<kElement, kHeadDim>(arguments, workspace, stream);
  });
}

}  // namespace portolan::cuda::sm90
