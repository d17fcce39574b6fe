// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>

#include "attention/kernel.hpp"
#include "attention/problem.hpp"
#include "attention/selection.hpp"

/// One entry point to every attention method of every device.
namespace portolan {

/// out = softmax(scale * q k^T, masked) v. Checks shapes, picks a kernel, runs it. `log_sum_exp`
/// may be undefined; see AttentionForwardKernel::forward. Throws UsageError for operands that do
/// not fit together.
void attention_forward(const AttentionProblem& problem, const Tensor& out,
                       const Tensor& log_sum_exp = {}, std::optional<AttentionMethod> method = {});

/// The same with f32 out and the log-sum-exp, for composing over blocks of keys with merge().
void attention_partial(const AttentionProblem& problem, const Tensor& out,
                       const Tensor& log_sum_exp, std::optional<AttentionMethod> method = {});

/// See AttentionBackwardKernel::backward. Given blocks of the keys, with the log-sum-exp and delta
/// of whole rows, gradients of blocks add up to those of the whole.
void attention_backward(const AttentionProblem& problem, const AttentionGradients& gradients,
                        std::optional<AttentionMethod> method = {});

/// delta[b, h, i] = sum over D of out[b, i, h, :] * grad_out[b, i, h, :] in f32, which the backward
/// kernels need. out and grad_out [B, Sq, H, D], delta [B, H, Sq] f32.
void attention_delta(const Tensor& out, const Tensor& grad_out, const Tensor& delta);

/// Merges the partial result of another block of keys into (out, log_sum_exp), all f32, shapes as
/// above: out = sum_i exp(lse_i - lse) out_i, lse = log sum_i exp(lse_i) (Milakov and Gimelshein
/// 2018, arXiv:1805.02867; Liu et al. 2023, arXiv:2310.01889).
void attention_merge(const Tensor& block_out, const Tensor& block_log_sum_exp, const Tensor& out,
                     const Tensor& log_sum_exp);

}  // namespace portolan
