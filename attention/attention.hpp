// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/tensor.hpp"

/// One entry point to every attention method of every device.
///
/// Letters: B batch, Sq and Sk tokens, H query heads, Hkv key/value heads (H a multiple of Hkv;
/// query head h reads key/value head h / (H / Hkv)), D head_dim (1 to 256).
namespace portolan {

/// A contiguous run of tokens: `length` rows of a tensor that stand at positions `position`,
/// `position + 1`, ... of the sequence.
struct TokenRun {
  std::int64_t position = 0;
  std::int64_t length = 0;
};

/// Which keys a query sees, from the positions of both. Position-carrying runs make chunked
/// prefill, zigzag shards and ordinary self-attention one thing: a query at position p sees a key
/// at position j if (not causal or j <= p) and (window == 0 or p - j < window).
struct AttentionMask {
  bool causal = true;
  /// Sliding window: a token sees itself and the window - 1 before it. 0: none. Implies causal.
  std::int64_t window = 0;
  /// In the order of the rows of q and of k; lengths add up to Sq and Sk. Empty means one run that
  /// is aligned bottom-right: queries end where the keys end.
  std::vector<TokenRun> query_runs = {};
  std::vector<TokenRun> key_runs = {};
};

struct AttentionProblem {
  Tensor q;  ///< [B, Sq, H, D], any strides for B, S and H, dense in D
  Tensor k;  ///< [B, Sk, Hkv, D]
  Tensor v;  ///< [B, Sk, Hkv, D]
  AttentionMask mask = {};
  float scale = 1.0F;  ///< multiplies q.k, usually 1 / sqrt(D)
};

enum class AttentionMethod { standard, flash };
[[nodiscard]] std::string_view name_of(AttentionMethod method);

/// A kernel of one device and method for the forward pass. Kernels accumulate in f32.
class AttentionKernel {
 public:
  virtual ~AttentionKernel() = default;
  [[nodiscard]] virtual DeviceKind device() const = 0;
  [[nodiscard]] virtual AttentionMethod method() const = 0;
  /// Empty if this kernel serves the problem, else the reason why not.
  [[nodiscard]] virtual std::string unsupported_reason(const AttentionProblem& problem) const = 0;
  /// Bytes of scratch that forward takes from the device's allocator.
  [[nodiscard]] virtual std::size_t workspace_bytes(const AttentionProblem& problem) const = 0;
  /// Writes out [B, Sq, H, D] (dtype of q, or f32; any strides, dense in D) and, if `log_sum_exp`
  /// is defined, the natural logarithm of the sum of exp(scale * q.k) over the keys seen, [B, H,
  /// Sq] f32. A row that sees no key gets out 0 and log_sum_exp -infinity.
  virtual void forward(const AttentionProblem& problem, const Tensor& out,
                       const Tensor& log_sum_exp) const = 0;
};

/// Kernels in order of preference. Filled by the runtime.
void register_attention_kernel(std::unique_ptr<AttentionKernel> kernel);
void unregister_attention_kernels();
[[nodiscard]] std::span<const std::unique_ptr<AttentionKernel>> registered_attention_kernels();

/// The kernel that serves the problem: the first registered for its device (and method, if given)
/// that supports it. Throws UnsupportedError with each candidate's reason.
[[nodiscard]] const AttentionKernel& select_attention_kernel(
    const AttentionProblem& problem, std::optional<AttentionMethod> method = {});

/// out = softmax(scale * q k^T, masked) v. Checks shapes, picks a kernel, runs it.
void attention_forward(const AttentionProblem& problem, const Tensor& out,
                       std::optional<AttentionMethod> method = {});

/// The same with f32 out and the log-sum-exp, for composing over blocks of keys with merge().
void attention_partial(const AttentionProblem& problem, const Tensor& out,
                       const Tensor& log_sum_exp, std::optional<AttentionMethod> method = {});

/// Scores that the mask leaves, summed over queries (all heads alike): 2 products of 2 D FLOPs
/// each.
[[nodiscard]] std::int64_t visible_scores(const AttentionMask& mask, std::int64_t query_tokens,
                                          std::int64_t key_tokens);

/// Runs with the default (bottom-right aligned) filled in.
[[nodiscard]] std::vector<TokenRun> resolved_query_runs(const AttentionMask& mask,
                                                        std::int64_t query_tokens,
                                                        std::int64_t key_tokens);
[[nodiscard]] std::vector<TokenRun> resolved_key_runs(const AttentionMask& mask,
                                                      std::int64_t key_tokens);

/// Merges the partial result of another block of keys into (out, log_sum_exp), all f32, shapes as
/// above: out = sum_i exp(lse_i - lse) out_i, lse = log sum_i exp(lse_i) (Milakov and Gimelshein
/// 2018, arXiv:1805.02867; Liu et al. 2023, arXiv:2310.01889).
void attention_merge(const Tensor& block_out, const Tensor& block_log_sum_exp, const Tensor& out,
                     const Tensor& log_sum_exp);

}  // namespace portolan
