// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>

#include "attention/cuda/flash_attention.hpp"
#include "bench/cuda/delta.hpp"
#include "bench/cuda/launchers.hpp"

namespace {

using portolan::cuda::AttentionArchitecture;
using portolan::cuda::AttentionElement;
using portolan::cuda::AttentionShape;
using portolan::cuda::AttentionStrides;

AttentionArchitecture architecture_of(const PortolanAttention& a) {
  return a.architecture == 90 ? AttentionArchitecture::sm90 : AttentionArchitecture::sm80;
}

AttentionShape shape_of(const PortolanAttention& a) {
  return {.batch = a.batch,
          .query_tokens = a.tokens,
          .key_tokens = a.tokens,
          .heads = a.heads,
          .key_heads = a.key_heads,
          .head_dim = a.head_dim,
          .element = a.is_bf16 != 0 ? AttentionElement::bf16 : AttentionElement::f16,
          .causal = a.causal != 0,
          .scale = 1.0F / std::sqrt(static_cast<float>(a.head_dim))};
}

AttentionStrides strides_of(const PortolanAttention& a, std::int64_t heads) {
  return {.batch = a.tokens * heads * a.head_dim, .token = heads * a.head_dim, .head = a.head_dim};
}

}  // namespace

std::int64_t portolan_attention_workspace(const PortolanAttention* attention) {
  const AttentionArchitecture architecture = architecture_of(*attention);
  const AttentionShape shape = shape_of(*attention);
  if (portolan::cuda::forward_unsupported_reason(architecture, shape) != nullptr ||
      portolan::cuda::backward_unsupported_reason(architecture, shape) != nullptr) {
    return -1;
  }
  return static_cast<std::int64_t>(
      std::max(portolan::cuda::forward_workspace_bytes(architecture, shape),
               portolan::cuda::backward_workspace_bytes(architecture, shape)));
}

int portolan_attention_forward(const PortolanAttention* attention) {
  const PortolanAttention& a = *attention;
  const AttentionStrides queries = strides_of(a, a.heads);
  const AttentionStrides keys = strides_of(a, a.key_heads);
  const portolan::cuda::AttentionForwardArguments arguments{.shape = shape_of(a),
                                                            .q = a.q,
                                                            .k = a.k,
                                                            .v = a.v,
                                                            .out = a.out,
                                                            .q_strides = queries,
                                                            .k_strides = keys,
                                                            .v_strides = keys,
                                                            .out_strides = queries,
                                                            .log_sum_exp = a.log_sum_exp,
                                                            .log_sum_exp_stride = a.tokens};
  return portolan::cuda::attention_forward(architecture_of(a), arguments, a.workspace,
                                           static_cast<cudaStream_t>(a.stream));
}

int portolan_attention_backward(const PortolanAttention* attention) {
  const PortolanAttention& a = *attention;
  auto* stream = static_cast<cudaStream_t>(a.stream);
  const cudaError_t status = portolan::cuda_bench::enqueue_delta(
      a.out, a.grad_out, a.delta, a.batch, a.tokens, a.heads, a.head_dim, a.is_bf16 != 0, stream);
  if (status != cudaSuccess) return status;
  const AttentionStrides queries = strides_of(a, a.heads);
  const AttentionStrides keys = strides_of(a, a.key_heads);
  const portolan::cuda::AttentionBackwardArguments arguments{.shape = shape_of(a),
                                                             .q = a.q,
                                                             .k = a.k,
                                                             .v = a.v,
                                                             .grad_out = a.grad_out,
                                                             .q_strides = queries,
                                                             .k_strides = keys,
                                                             .v_strides = keys,
                                                             .grad_out_strides = queries,
                                                             .log_sum_exp = a.log_sum_exp,
                                                             .delta = a.delta,
                                                             .log_sum_exp_stride = a.tokens,
                                                             .dq = a.dq,
                                                             .dk = a.dk,
                                                             .dv = a.dv,
                                                             .dq_strides = queries,
                                                             .dk_strides = keys,
                                                             .dv_strides = keys};
  return portolan::cuda::attention_backward(architecture_of(a), arguments, a.workspace, stream);
}
