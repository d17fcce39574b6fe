// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "attention/attention.hpp"
#include "attention/mask.hpp"
#include "core/dtype.hpp"

namespace portolan::portable {

/// Elements between neighbours in batch, tokens and heads.
struct Strides {
  std::int64_t batch = 0;
  std::int64_t token = 0;
  std::int64_t head = 0;

  explicit Strides(const Tensor& tensor)
      : batch(tensor.strides()[0]), token(tensor.strides()[1]), head(tensor.strides()[2]) {}

  [[nodiscard]] PORTOLAN_HOST_DEVICE std::int64_t offset(std::int64_t batch_index,
                                                         std::int64_t token_index,
                                                         std::int64_t head_index) const {
    return batch_index * batch + token_index * token + head_index * head;
  }
};

/// An attention problem as plain data, copyable to any device.
template <typename T, typename Out>
struct Operands {
  const T* q;
  const T* k;
  const T* v;
  Out* out;
  float* log_sum_exp;  // may be null; [batch, heads, tokens] by its strides
  Strides q_strides;
  Strides k_strides;
  Strides v_strides;
  Strides out_strides;
  std::int64_t log_sum_exp_batch = 0;
  std::int64_t log_sum_exp_head = 0;
  std::int64_t log_sum_exp_token = 0;
  std::int64_t batch;
  std::int64_t query_tokens;
  std::int64_t key_tokens;
  std::int64_t heads;
  std::int64_t heads_per_key_head;
  int head_dim;
  float scale;
  MaskRule rule;

  Operands(const AttentionProblem& problem, const Tensor& out_tensor, const Tensor& lse)
      : q(problem.q.data<T>()),
        k(problem.k.data<T>()),
        v(problem.v.data<T>()),
        out(out_tensor.data<Out>()),
        log_sum_exp(lse.defined() ? lse.data<float>() : nullptr),
        q_strides(problem.q),
        k_strides(problem.k),
        v_strides(problem.v),
        out_strides(out_tensor),
        batch(problem.q.dim(0)),
        query_tokens(problem.q.dim(1)),
        key_tokens(problem.k.dim(1)),
        heads(problem.q.dim(2)),
        heads_per_key_head(problem.q.dim(2) / problem.k.dim(2)),
        head_dim(static_cast<int>(problem.q.dim(3))),
        scale(problem.scale),
        rule(problem.mask) {
    if (!lse.defined()) return;
    log_sum_exp_batch = lse.strides()[0];
    log_sum_exp_head = lse.strides()[1];
    log_sum_exp_token = lse.strides()[2];
  }

  PORTOLAN_HOST_DEVICE void store_log_sum_exp(std::int64_t batch_index, std::int64_t head,
                                              std::int64_t token, float value) const {
    if (log_sum_exp == nullptr) return;
    log_sum_exp[batch_index * log_sum_exp_batch + head * log_sum_exp_head +
                token * log_sum_exp_token] = value;
  }
};

/// Calls `function` with Operands of the problem's element types.
template <typename Function>
void with_operands(const AttentionProblem& problem, const Tensor& out, const Tensor& log_sum_exp,
                   Function&& function) {
  const auto with_input = [&]<typename T>(T) {
    if (out.dtype() == DType::f32) {
      function(Operands<T, float>(problem, out, log_sum_exp));
    } else {
      function(Operands<T, T>(problem, out, log_sum_exp));
    }
  };
  switch (problem.q.dtype()) {
    case DType::bf16:
      return with_input(BFloat16{});
    case DType::f16:
      return with_input(Float16{});
    default:
      return function(Operands<float, float>(problem, out, log_sum_exp));
  }
}

}  // namespace portolan::portable
