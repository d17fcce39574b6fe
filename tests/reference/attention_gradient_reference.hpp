// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

/// Attention and its gradient in plain f64, score by score, for any mask. Shares no code with the
/// engine.
namespace portolan::reference {

struct DenseAttentionInput {
  std::int64_t batch = 1;
  std::int64_t query_tokens = 0;
  std::int64_t key_tokens = 0;
  std::int64_t heads = 1;
  std::int64_t key_heads = 1;
  std::int64_t head_dim = 1;
  double scale = 1.0;
  /// [batch, heads, query_tokens, key_tokens]: 1 where a query sees a key.
  std::vector<char> seen;
  /// The same: factor of each weight after the softmax. Empty: 1.
  std::vector<double> weight_factor;
  std::vector<double> q;  ///< [batch, query_tokens, heads, head_dim]
  std::vector<double> k;  ///< [batch, key_tokens, key_heads, head_dim]
  std::vector<double> v;
  std::vector<double> grad_out;  ///< as q
};

struct DenseAttentionResult {
  std::vector<double> out;          ///< as q
  std::vector<double> log_sum_exp;  ///< [batch, heads, query_tokens]
  std::vector<double> delta;        ///< sum of out * grad_out, [batch, heads, query_tokens]
  std::vector<double> dq;
  std::vector<double> dk;
  std::vector<double> dv;
  /// Sums of the magnitudes of what is added up, which rounding errors are relative to.
  std::vector<double> dq_magnitude;
  std::vector<double> dk_magnitude;
  std::vector<double> dv_magnitude;
};

/// A row that sees no key gets out 0, log-sum-exp -infinity, and no gradient.
[[nodiscard]] DenseAttentionResult dense_attention(const DenseAttentionInput& input);

}  // namespace portolan::reference
