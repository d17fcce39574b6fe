// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "attention/mask.hpp"
#include "attention/portable/block_graph.hpp"
#include "attention/portable/operand.hpp"

/// An attention problem as plain data that kernels of an execution space can read.
namespace portolan::portable {

inline constexpr int kMaximumHeadDim = 256;
inline constexpr float kNothing = -std::numeric_limits<float>::infinity();

/// Dropout's decision on each weight; see dropout_words().
struct DropoutView {
  AttentionDropout dropout;
  std::uint32_t threshold = 0;
  float kept = 1.0F;

  explicit DropoutView(const AttentionDropout& dropout_)
      : dropout(dropout_),
        threshold(dropout_threshold(dropout_.probability)),
        kept(1.0F / (1.0F - dropout_.probability)) {}

  [[nodiscard]] PORTOLAN_HOST_DEVICE bool active() const { return dropout.probability > 0.0F; }

  /// Of the weight of one query and key.
  [[nodiscard]] PORTOLAN_HOST_DEVICE float factor(std::int64_t batch, std::int64_t head,
                                                  const RowTile& query, const RowTile& key) const {
    float result = kept;
    if (active()) {
      for_keys(batch, head, query, key.position, 1,
               [&](std::int64_t, bool dropped) { result = dropped ? 0.0F : kept; });
    }
    return result;
  }

  /// Calls `function(i, dropped)` for keys i = 0 .. count - 1 at positions first_key and following.
  template <typename Function>
  PORTOLAN_HOST_DEVICE void for_keys(std::int64_t batch, std::int64_t head, const RowTile& query,
                                     std::int64_t first_key, std::int64_t count,
                                     const Function& function) const {
    // One draw decides on four neighbours. Positions may be negative, hence no remainder.
    for (std::int64_t i = 0; i < count;) {
      const auto words = dropout_words(dropout.key, dropout.first_entry + batch + query.sequence,
                                       dropout.first_head + head, query.position, first_key + i);
      do {
        function(i, words[static_cast<std::size_t>((first_key + i) & 3)] < threshold);
        ++i;
      } while (i < count && ((first_key + i) & 3) != 0);
    }
  }
};

template <class Space>
struct ProblemView {
  Operand q;
  Operand k;
  Operand v;
  std::int64_t batch;
  std::int64_t query_tokens;
  std::int64_t key_tokens;
  std::int64_t heads;
  std::int64_t key_heads;
  std::int64_t heads_per_key_head;
  int head_dim;
  float scale;
  MaskRule rule;
  DropoutView dropout;
  /// Runs in the order of the rows, none of them empty. Null if there are cached rows, which
  /// kernels read where they are: one run of each entry, of which nothing is copied from the host.
  const RowTile* query_runs = nullptr;
  const RowTile* key_runs = nullptr;
  std::int64_t query_run_count = 0;
  std::int64_t key_run_count = 0;
  const std::int32_t* cached_rows = nullptr;
  const KeyRange* key_ranges = nullptr;  // null: no padding
  BlockView<Space> blocks;               // rows are those of queries
  BlockView<Space> transposed_blocks;    // rows are those of keys

  explicit ProblemView(const AttentionProblem& problem)
      : q(problem.q),
        k(problem.k),
        v(problem.v),
        batch(problem.q.dim(0)),
        query_tokens(problem.q.dim(1)),
        key_tokens(problem.k.dim(1)),
        heads(problem.q.dim(2)),
        key_heads(problem.k.dim(2)),
        heads_per_key_head(heads / key_heads),
        head_dim(static_cast<int>(problem.q.dim(3))),
        scale(problem.scale),
        rule(problem.mask),
        dropout(problem.dropout) {
    if (!problem.cached_rows.defined()) return;
    cached_rows = problem.cached_rows.data<std::int32_t>();
    query_run_count = key_run_count = 1;
  }

  /// Calls `function(keys)` for stretches of keys, each within one run and one block, that together
  /// hold every key that one of the queries sees, and begin and end with such keys. The queries lie
  /// in one run and, if there is a block map, in one of its block rows.
  template <typename Function>
  KOKKOS_INLINE_FUNCTION void for_seen_keys(std::int64_t batch_index, std::int64_t head,
                                            const RowTile& queries,
                                            const Function& function) const {
    for (std::int64_t run = 0; run < key_run_count; ++run) {
      const RowTile keys = seen_keys(rule, queries, key_run(batch_index, run));
      for_blocks(blocks, head, queries.row, within_padding(batch_index, keys), function);
    }
  }

  /// The same with the roles of queries and keys exchanged.
  template <typename Function>
  KOKKOS_INLINE_FUNCTION void for_seeing_queries(std::int64_t batch_index, std::int64_t head,
                                                 const RowTile& keys,
                                                 const Function& function) const {
    const RowTile tokens = within_padding(batch_index, keys);
    for (std::int64_t run = 0; run < query_run_count; ++run) {
      for_blocks(transposed_blocks, head, keys.row, seeing_queries(rule, query_runs[run], tokens),
                 function);
    }
  }

  [[nodiscard]] KOKKOS_INLINE_FUNCTION RowTile within_padding(std::int64_t batch_index,
                                                              const RowTile& keys) const {
    if (key_ranges == nullptr) return keys;
    return rows_within(keys, key_ranges[batch_index].begin, key_ranges[batch_index].end);
  }

  /// A single row of q, or of k, with its position.
  [[nodiscard]] KOKKOS_INLINE_FUNCTION RowTile query_row(std::int64_t batch_index,
                                                         std::int64_t token) const {
    if (cached_rows == nullptr) return row_of(query_runs, query_run_count, token);
    const KeyRange rows = cached_rows_of(cached_rows, batch_index, key_tokens);
    return {token, rows.end - query_tokens + token, 1, 0};
  }
  [[nodiscard]] KOKKOS_INLINE_FUNCTION RowTile key_row(std::int64_t token) const {
    return row_of(key_runs, key_run_count, token);
  }

 private:
  [[nodiscard]] KOKKOS_INLINE_FUNCTION RowTile key_run(std::int64_t batch_index,
                                                       std::int64_t run) const {
    if (cached_rows == nullptr) return key_runs[run];
    const KeyRange rows = cached_rows_of(cached_rows, batch_index, key_tokens);
    return {rows.begin, rows.begin, rows.end - rows.begin, 0};
  }

  template <typename Function>
  static KOKKOS_INLINE_FUNCTION void for_blocks(const BlockView<Space>& blocks, std::int64_t head,
                                                std::int64_t first_row, const RowTile& columns,
                                                const Function& function) {
    if (columns.length == 0) return;
    if (blocks.block_rows == 0) {
      function(columns);
      return;
    }
    const std::int64_t row = head * blocks.block_rows + first_row / blocks.row_tokens;
    const auto listed = blocks.graph.rowConst(static_cast<std::int32_t>(row));
    for (std::int32_t i = 0; i < listed.length; ++i) {
      const std::int64_t begin = listed(i) * blocks.column_tokens;
      const RowTile part = rows_within(columns, begin, begin + blocks.column_tokens);
      if (part.length > 0) function(part);
    }
  }

  static KOKKOS_INLINE_FUNCTION RowTile row_of(const RowTile* runs, std::int64_t count,
                                               std::int64_t token) {
    std::int64_t first = 0;
    for (std::int64_t rest = count; rest > 1;) {
      const std::int64_t half = rest / 2;
      if (runs[first + half].row <= token) first += half;
      rest -= half;
    }
    return rows_within(runs[first], token, token + 1);
  }
};

/// Softmax over keys that come in parts: what has been summed so far is relative to the largest
/// score so far (Milakov and Gimelshein 2018, arXiv:1805.02867).
struct RunningSoftmax {
  float maximum = kNothing;
  float sum = 0.0F;

  /// Turns the scores [first, end) of a part into weights, all others of its `count` into 0, and
  /// returns the factor by which sums over earlier parts have to shrink.
  KOKKOS_INLINE_FUNCTION float take(float* scores, std::int64_t first, std::int64_t end,
                                    std::int64_t count) {
    const float before = maximum;
    for (std::int64_t i = first; i < end; ++i) maximum = scores[i] > maximum ? scores[i] : maximum;
    // A row that has seen nothing yet keeps weights of 0: exp(-inf - 0).
    const float reference = maximum == kNothing ? 0.0F : maximum;
    float part = 0.0F;
    for (std::int64_t i = 0; i < count; ++i) {
      scores[i] = i >= first && i < end ? std::exp(scores[i] - reference) : 0.0F;
      part += scores[i];
    }
    const float factor = std::exp(before - reference);
    sum = sum * factor + part;
    return factor;
  }

  [[nodiscard]] KOKKOS_INLINE_FUNCTION float inverse_sum() const {
    return sum == 0.0F ? 0.0F : 1.0F / sum;
  }
  [[nodiscard]] KOKKOS_INLINE_FUNCTION float log_sum_exp() const {
    return sum == 0.0F ? kNothing : maximum + std::log(sum);
  }
};

/// A weight again from its scaled score; 0 in rows that see nothing, whose log-sum-exp is
/// -infinity.
KOKKOS_INLINE_FUNCTION float weight_of(float score, float log_sum_exp) {
  return log_sum_exp == kNothing ? 0.0F : std::exp(score - log_sum_exp);
}

/// What the backward pass is given and computes.
struct GradientView {
  Operand grad_out;
  RowValues log_sum_exp;
  RowValues delta;
  Operand dq;
  Operand dk;
  Operand dv;
  bool accumulate = false;

  GradientView() = default;
  explicit GradientView(const AttentionGradients& gradients)
      : grad_out(gradients.grad_out),
        log_sum_exp(gradients.log_sum_exp),
        delta(gradients.delta),
        dq(gradients.dq),
        dk(gradients.dk),
        dv(gradients.dv),
        accumulate(gradients.accumulate) {}
};

}  // namespace portolan::portable
