// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <vector>

/// Every operation of the engine in plain f64, one element after the other. Shares no code with the
/// engine. Matrices are dense and row-major.
namespace portolan::reference {

using Values = std::vector<double>;

/// A result and, element by element, the sum of the magnitudes of the terms that were added to make
/// it: what the rounding error of a computation in lower precision is proportional to.
struct Sums {
  Values values;
  Values magnitudes;
};

/// x / sqrt(mean(x^2) + epsilon) * weight, row by row.
[[nodiscard]] Values rms_norm(const Values& x, const Values& weight, double epsilon,
                              std::int64_t rows);

/// x [tokens, heads, head_dim] with pairs (i, i + head_dim / 2) turned by the angle whose cosine
/// and sine are element [positions[token], i] of the tables [length, head_dim / 2].
[[nodiscard]] Sums rotary_embedding(const Values& x, const std::vector<std::int32_t>& positions,
                                    const Values& cosines, const Values& sines, std::int64_t heads,
                                    std::int64_t head_dim);

/// gate * sigmoid(gate) * up.
[[nodiscard]] Values swiglu(const Values& gate, const Values& up);

/// Element by element.
[[nodiscard]] Sums sum(const std::vector<Values>& inputs);

/// Row ids[i] - first_row of the table, 0 where there is none.
[[nodiscard]] Values embedding(const std::vector<std::int32_t>& ids, const Values& table,
                               std::int64_t table_rows, std::int64_t first_row);

/// x [rows, in] times the transpose of weight [out, in], plus `initial` unless it is empty.
[[nodiscard]] Sums matmul(const Values& x, const Values& weight, std::int64_t rows,
                          std::int64_t in_features, std::int64_t out_features,
                          const Values& initial);

/// Two partial results of attention over disjoint keys made one: out [batch, tokens, heads,
/// head_dim], log-sum-exps [batch, heads, tokens].
struct PartialAttention {
  Values out;
  Values log_sum_exp;
};
[[nodiscard]] PartialAttention merge_attention(const PartialAttention& first,
                                               const PartialAttention& second, std::int64_t batch,
                                               std::int64_t tokens, std::int64_t heads,
                                               std::int64_t head_dim);

/// Philox4x32-10 as the paper's figure gives it.
[[nodiscard]] std::array<std::uint32_t, 4> philox(std::array<std::uint32_t, 4> counter,
                                                  std::array<std::uint32_t, 2> key);

}  // namespace portolan::reference
