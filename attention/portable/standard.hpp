// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "attention/portable/rows.hpp"

namespace portolan::portable {

/// The textbook method: all scores in memory, each step a pass over them (Vaswani et al. 2017,
/// arXiv:1706.03762). The yardstick for the others.
template <class Space>
class Standard {
 public:
  struct Scores {};
  struct Softmax {};
  struct Output {};
  struct Weights {};
  struct KeyGradients {};
  struct Slopes {};
  struct QueryGradients {};
  struct ValueGradients {};

  /// scores: [batch, heads, query_tokens, key_tokens] f32.
  Standard(const ProblemView<Space>& problem, float* scores) : problem_(problem), scores_(scores) {}

  void forward(const Tensor& out, const Tensor& log_sum_exp) {
    out_ = Operand(out);
    log_sum_exp_ = RowValues(log_sum_exp);
    launch<Scores>("Portolan::Attention::standard_scores", query_rows());
    launch<Softmax>("Portolan::Attention::standard_softmax", query_rows());
    launch<Output>("Portolan::Attention::standard_output", query_rows());
  }

  void backward(const AttentionGradients& gradients) {
    gradients_ = GradientView(gradients);
    launch<Scores>("Portolan::Attention::standard_scores", query_rows());
    launch<Weights>("Portolan::Attention::standard_weights", query_rows());
    launch<ValueGradients>("Portolan::Attention::standard_dv", key_rows());
    launch<Slopes>("Portolan::Attention::standard_slopes", query_rows());
    launch<QueryGradients>("Portolan::Attention::standard_dq", query_rows());
    launch<KeyGradients>("Portolan::Attention::standard_dk", key_rows());
  }

  KOKKOS_INLINE_FUNCTION void operator()(Scores, const std::int64_t index) const {
    const Row row = query_row(index);
    for (std::int64_t key = 0; key < problem_.key_tokens; ++key) row.scores[key] = kNothing;
    float q[kMaximumHeadDim];
    read_row(problem_.q, row.batch, row.token, row.head, problem_.head_dim, q);
    problem_.for_seen_keys(
        row.batch, row.head, problem_.query_row(row.batch, row.token), [&](const RowTile& keys) {
          multiply_rows(q, problem_.k, row.batch, row.key_head, keys, problem_.head_dim,
                        problem_.scale, row.scores + keys.row);
        });
  }

  KOKKOS_INLINE_FUNCTION void operator()(Softmax, const std::int64_t index) const {
    const Row row = query_row(index);
    RunningSoftmax softmax;
    softmax.take(row.scores, 0, problem_.key_tokens, problem_.key_tokens);
    const float factor = softmax.inverse_sum();
    for (std::int64_t key = 0; key < problem_.key_tokens; ++key) row.scores[key] *= factor;
    if (log_sum_exp_.data != nullptr) {
      log_sum_exp_.at(row.batch, row.head, row.token) = softmax.log_sum_exp();
    }
    mark_dropped(row);
  }

  KOKKOS_INLINE_FUNCTION void operator()(Output, const std::int64_t index) const {
    const Row row = query_row(index);
    float out[kMaximumHeadDim] = {};
    problem_.for_seen_keys(
        row.batch, row.head, problem_.query_row(row.batch, row.token), [&](const RowTile& keys) {
          add_weighted_rows([&](std::int64_t i) { return kept(row.scores[keys.row + i]); },
                            problem_.v, row.batch, row.key_head, keys, problem_.head_dim, out);
        });
    write_row(out_, row.batch, row.token, row.head, problem_.head_dim, out, 1.0F);
  }

  KOKKOS_INLINE_FUNCTION void operator()(Weights, const std::int64_t index) const {
    const Row row = query_row(index);
    const float log_sum_exp = gradients_.log_sum_exp.at(row.batch, row.head, row.token);
    for (std::int64_t key = 0; key < problem_.key_tokens; ++key) {
      row.scores[key] = weight_of(row.scores[key], log_sum_exp);
    }
    mark_dropped(row);
  }

  KOKKOS_INLINE_FUNCTION void operator()(ValueGradients, const std::int64_t index) const {
    add_columns(index, gradients_.grad_out, 1.0F, gradients_.dv,
                [this](float marked_weight) { return kept(marked_weight); });
  }

  /// Weights to the loss' slopes with respect to scaled scores.
  KOKKOS_INLINE_FUNCTION void operator()(Slopes, const std::int64_t index) const {
    const Row row = query_row(index);
    const float delta = gradients_.delta.at(row.batch, row.head, row.token);
    float grad_out[kMaximumHeadDim];
    read_row(gradients_.grad_out, row.batch, row.token, row.head, problem_.head_dim, grad_out);
    problem_.for_seen_keys(row.batch, row.head, problem_.query_row(row.batch, row.token),
                           [&](const RowTile& stretch) {
                             for_chunks(stretch, [&](const RowTile& keys) {
                               float products[kChunk];
                               multiply_rows(grad_out, problem_.v, row.batch, row.key_head, keys,
                                             problem_.head_dim, 1.0F, products);
                               for (std::int64_t i = 0; i < keys.length; ++i) {
                                 float& score = row.scores[keys.row + i];
                                 const float factor = score < 0.0F ? 0.0F : problem_.dropout.kept;
                                 score = std::abs(score) * (factor * products[i] - delta);
                               }
                             });
                           });
  }

  KOKKOS_INLINE_FUNCTION void operator()(QueryGradients, const std::int64_t index) const {
    const Row row = query_row(index);
    float dq[kMaximumHeadDim] = {};
    problem_.for_seen_keys(
        row.batch, row.head, problem_.query_row(row.batch, row.token), [&](const RowTile& keys) {
          add_weighted_rows([&](std::int64_t i) { return row.scores[keys.row + i]; }, problem_.k,
                            row.batch, row.key_head, keys, problem_.head_dim, dq);
        });
    write_row(gradients_.dq, row.batch, row.token, row.head, problem_.head_dim, dq, problem_.scale,
              gradients_.accumulate);
  }

  KOKKOS_INLINE_FUNCTION void operator()(KeyGradients, const std::int64_t index) const {
    add_columns(index, problem_.q, problem_.scale, gradients_.dk,
                [](float slope) { return slope; });
  }

 private:
  struct Row {
    std::int64_t batch;
    std::int64_t head;
    std::int64_t key_head;
    std::int64_t token;
    float* scores;
  };

  template <class Pass>
  void launch(const char* name, std::int64_t rows) const {
    using Rows = Kokkos::RangePolicy<Space, Pass, Kokkos::IndexType<std::int64_t>>;
    // Arguments of this size go to a GPU in a copy of their own, out of memory that later launches
    // write over, unless the work is called light: then with the launch, which can be recorded.
    const auto policy = Kokkos::Experimental::require(
        Rows(0, rows), Kokkos::Experimental::WorkItemProperty::HintLightWeight);
    Kokkos::parallel_for(name, policy, *this);
  }

  [[nodiscard]] std::int64_t query_rows() const {
    return problem_.batch * problem_.heads * problem_.query_tokens;
  }
  [[nodiscard]] std::int64_t key_rows() const {
    return problem_.batch * problem_.key_heads * problem_.key_tokens;
  }

  [[nodiscard]] KOKKOS_INLINE_FUNCTION Row query_row(std::int64_t index) const {
    const std::int64_t head = index / problem_.query_tokens % problem_.heads;
    return {index / problem_.query_tokens / problem_.heads, head,
            head / problem_.heads_per_key_head, index % problem_.query_tokens,
            scores_ + index * problem_.key_tokens};
  }

  /// The sign of a weight says whether it is dropped, so that both passes and both products read
  /// one matrix.
  KOKKOS_INLINE_FUNCTION void mark_dropped(const Row& row) const {
    if (!problem_.dropout.active()) return;
    const RowTile query = problem_.query_row(row.batch, row.token);
    for (std::int64_t run = 0; run < problem_.key_run_count; ++run) {
      const RowTile& keys = problem_.key_runs[run];
      problem_.dropout.for_keys(row.batch, row.head, query, keys.position, keys.length,
                                [&](std::int64_t i, bool dropped) {
                                  float& weight = row.scores[keys.row + i];
                                  if (dropped) weight = -weight;
                                });
    }
  }
  [[nodiscard]] KOKKOS_INLINE_FUNCTION float kept(float marked_weight) const {
    return marked_weight < 0.0F ? 0.0F : problem_.dropout.kept * marked_weight;
  }

  /// Of one key: gradient = factor * sum over the queries of all heads of its group of
  /// weight(scores) * rows.
  template <typename Weight>
  KOKKOS_INLINE_FUNCTION void add_columns(std::int64_t index, const Operand& rows, float factor,
                                          const Operand& gradient, const Weight& weight) const {
    const std::int64_t key_head = index / problem_.key_tokens % problem_.key_heads;
    const std::int64_t batch = index / problem_.key_tokens / problem_.key_heads;
    const std::int64_t token = index % problem_.key_tokens;
    float sums[kMaximumHeadDim] = {};
    for (std::int64_t h = 0; h < problem_.heads_per_key_head; ++h) {
      const std::int64_t head = key_head * problem_.heads_per_key_head + h;
      const float* scores =
          scores_ + (batch * problem_.heads + head) * problem_.query_tokens * problem_.key_tokens +
          token;
      problem_.for_seeing_queries(
          batch, head, problem_.key_row(token), [&](const RowTile& queries) {
            add_weighted_rows(
                [&](std::int64_t i) {
                  return weight(scores[(queries.row + i) * problem_.key_tokens]);
                },
                rows, batch, head, queries, problem_.head_dim, sums);
          });
    }
    write_row(gradient, batch, token, key_head, problem_.head_dim, sums, factor,
              gradients_.accumulate);
  }

  ProblemView<Space> problem_;
  float* scores_;
  Operand out_;
  RowValues log_sum_exp_;
  GradientView gradients_;
};

}  // namespace portolan::portable
