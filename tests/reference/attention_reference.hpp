// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

/// Softmax attention in plain f64, row by row. Shares no code with the engine.
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
  std::vector<std::int64_t> query_positions;
  std::vector<std::int64_t> key_positions;
  std::vector<double> q;  ///< [batch, query_tokens, heads, head_dim]
  std::vector<double> k;  ///< [batch, key_tokens, key_heads, head_dim]
  std::vector<double> v;
};

struct AttentionOutput {
  std::vector<double> out;          ///< [batch, query_tokens, heads, head_dim]
  std::vector<double> log_sum_exp;  ///< [batch, heads, query_tokens]
};

[[nodiscard]] bool sees(const AttentionInput& input, std::int64_t query_position,
                        std::int64_t key_position);

/// A row that sees no key gets 0 and -infinity.
[[nodiscard]] AttentionOutput attention(const AttentionInput& input);

}  // namespace portolan::reference
