// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

/// Softmax attention and its gradient in plain f64, score by score. Shares no code with the engine.
namespace portolan::reference {

struct AttentionInput {
  std::int64_t batch = 1;
  std::int64_t query_tokens = 0;
  std::int64_t key_tokens = 0;
  std::int64_t heads = 1;
  std::int64_t key_heads = 1;
  std::int64_t head_dim = 1;
  double scale = 1.0;
  bool causal = true;
  std::int64_t window = 0;  ///< 0: none
  /// Of the tokens, the same in all batch entries; or of each entry's in turn.
  std::vector<std::int64_t> query_positions;
  std::vector<std::int64_t> key_positions;
  /// Of each token, the packed sequence that it belongs to. Empty: all belong to one.
  std::vector<std::int64_t> query_sequences;
  std::vector<std::int64_t> key_sequences;
  /// Of each batch entry, the first key that is no padding and the one behind the last. Empty: no
  /// padding.
  std::vector<std::int64_t> key_begin;
  std::vector<std::int64_t> key_end;
  /// [heads, ceil(query_tokens / block_queries), ceil(key_tokens / block_keys)]: not 0 where a
  /// block of scores is computed. Empty: everywhere.
  std::vector<std::uint8_t> block_flags;
  std::int64_t block_queries = 1;
  std::int64_t block_keys = 1;
  /// Probability with which a weight is dropped, and what the draws depend on.
  double dropout = 0.0;
  std::uint64_t seed = 0;
  std::uint64_t stream = 0;
  std::int64_t first_entry = 0;
  std::int64_t first_head = 0;
  std::vector<double> q;  ///< [batch, query_tokens, heads, head_dim]
  std::vector<double> k;  ///< [batch, key_tokens, key_heads, head_dim]
  std::vector<double> v;
};

struct AttentionOutput {
  std::vector<double> out;          ///< [batch, query_tokens, heads, head_dim]
  std::vector<double> log_sum_exp;  ///< [batch, heads, query_tokens]
};

/// The sums of the magnitudes of what is added up bound what rounding can do to a gradient.
struct AttentionGradient {
  std::vector<double> delta;  ///< [batch, heads, query_tokens]: sum of out * grad_out
  std::vector<double> dq;     ///< as q
  std::vector<double> dk;     ///< as k
  std::vector<double> dv;
  std::vector<double> dq_magnitude;
  std::vector<double> dk_magnitude;
  std::vector<double> dv_magnitude;
};

/// Causality and window alone.
[[nodiscard]] bool sees(const AttentionInput& input, std::int64_t query_position,
                        std::int64_t key_position);
/// Everything that can hide a key: also sequences, padding and blocks.
[[nodiscard]] bool sees(const AttentionInput& input, std::int64_t batch, std::int64_t head,
                        std::int64_t query, std::int64_t key);
/// 0 for a weight that is dropped, else 1 / (1 - dropout).
[[nodiscard]] double weight_factor(const AttentionInput& input, std::int64_t batch,
                                   std::int64_t head, std::int64_t query, std::int64_t key);

/// A row that sees no key gets 0 and -infinity.
[[nodiscard]] AttentionOutput attention(const AttentionInput& input);

/// Gradient of sum(out * grad_out); grad_out as q.
[[nodiscard]] AttentionGradient attention_gradient(const AttentionInput& input,
                                                   const std::vector<double>& grad_out);

}  // namespace portolan::reference
