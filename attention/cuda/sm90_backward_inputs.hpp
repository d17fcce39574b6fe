// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "attention/cuda/attention_arguments.hpp"
#include "attention/cuda/sm90_tensor_maps.hpp"

/// What both kernels of the backward pass are given alike.
namespace portolan::cuda::sm90 {

/// `Block`'s parameters but for its results and tensor maps. `shape` is that of the arguments
/// without a vain window.
template <typename Block>
[[nodiscard]] typename Block::Parameters backward_inputs(
    const AttentionBackwardArguments& arguments, const AttentionShape& shape) {
  typename Block::Parameters parameters{};
  parameters.problem.shape = shape;
  parameters.problem.statistics_stride = arguments.log_sum_exp_stride;
  parameters.log_sum_exp = arguments.log_sum_exp;
  parameters.delta = arguments.delta;
  return parameters;
}

/// Describes q, grad_out, k and v, in boxes of `Block`'s tiles, where `tensors` has their places.
template <typename Block>
void describe_backward_inputs(const AttentionBackwardArguments& arguments,
                              const AttentionShape& shape, TensorDescription* tensors) {
  using Parameters = typename Block::Parameters;
  tensors[Parameters::kQ] = {arguments.q, arguments.q_strides, shape.heads, true, Block::kQueries};
  tensors[Parameters::kGradOut] = {arguments.grad_out, arguments.grad_out_strides, shape.heads,
                                   true, Block::kQueries};
  tensors[Parameters::kK] = {arguments.k, arguments.k_strides, shape.key_heads, false,
                             Block::kKeys};
  tensors[Parameters::kV] = {arguments.v, arguments.v_strides, shape.key_heads, false,
                             Block::kKeys};
}

}  // namespace portolan::cuda::sm90
