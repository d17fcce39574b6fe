// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

/// The kernels for callers without C++, as a shared library: dense operands
/// [batch, tokens, heads, head_dim], log_sum_exp and delta [batch, heads, tokens], one length.
/// `architecture` is 80 or 90; `is_bf16` 0 means f16. All return 0, or CUDA's error.
extern "C" {

struct PortolanAttention {
  std::int32_t architecture;
  std::int32_t is_bf16;
  std::int32_t causal;
  std::int32_t reserved;
  std::int64_t batch;
  std::int64_t tokens;
  std::int64_t heads;
  std::int64_t key_heads;
  std::int64_t head_dim;
  const void* q;
  const void* k;
  const void* v;
  void* out;
  float* log_sum_exp;
  const void* grad_out;
  float* delta;
  void* dq;
  void* dk;
  void* dv;
  void* workspace;
  void* stream;
};

/// Bytes of workspace that both passes need; negative if the shape is not served.
std::int64_t portolan_attention_workspace(const PortolanAttention* attention);
int portolan_attention_forward(const PortolanAttention* attention);
/// Computes delta, too.
int portolan_attention_backward(const PortolanAttention* attention);
}
