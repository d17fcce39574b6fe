// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "attention/portable/rows.hpp"

namespace portolan::portable {

/// Row by row over chunks of keys, each chunk's maximum, sum and weighted values merged into the
/// row's; weights are computed again in the backward pass, from chunks as well, so that nothing but
/// operands and results is ever in memory (Rabe and Staats 2021, arXiv:2112.05682).
template <class Space>
class MemoryEfficient {
 public:
  struct Output {};
  struct QueryGradients {};
  struct KeyGradients {};

  explicit MemoryEfficient(const ProblemView<Space>& problem) : problem_(problem) {}

  void forward(const Tensor& out, const Tensor& log_sum_exp) {
    out_ = Operand(out);
    log_sum_exp_ = RowValues(log_sum_exp);
    launch<Output>("Portolan::Attention::memory_efficient_output", query_rows());
  }

  void backward(const AttentionGradients& gradients) {
    gradients_ = GradientView(gradients);
    launch<QueryGradients>("Portolan::Attention::memory_efficient_dq", query_rows());
    launch<KeyGradients>("Portolan::Attention::memory_efficient_dkv",
                         problem_.batch * problem_.key_heads * problem_.key_tokens);
  }

  KOKKOS_INLINE_FUNCTION void operator()(Output, const std::int64_t index) const {
    const Row row = query_row(index);
    const int head_dim = problem_.head_dim;
    float q[kMaximumHeadDim];
    float out[kMaximumHeadDim] = {};
    read_row(problem_.q, row.batch, row.query.row, row.head, head_dim, q);
    RunningSoftmax softmax;
    problem_.for_seen_keys(row.batch, row.head, row.query, [&](const RowTile& stretch) {
      for_chunks(stretch, [&](const RowTile& keys) {
        float weights[kChunk];
        multiply_rows(q, problem_.k, row.batch, row.key_head, keys, head_dim, problem_.scale,
                      weights);
        const float factor = softmax.take(weights, 0, keys.length, keys.length);
        for (int d = 0; d < head_dim; ++d) out[d] *= factor;
        drop(row, keys, weights);
        add_weighted_rows([&](std::int64_t i) { return weights[i]; }, problem_.v, row.batch,
                          row.key_head, keys, head_dim, out);
      });
    });
    write_row(out_, row.batch, row.query.row, row.head, head_dim, out, softmax.inverse_sum());
    if (log_sum_exp_.data != nullptr) {
      log_sum_exp_.at(row.batch, row.head, row.query.row) = softmax.log_sum_exp();
    }
  }

  KOKKOS_INLINE_FUNCTION void operator()(QueryGradients, const std::int64_t index) const {
    const Row row = query_row(index);
    const int head_dim = problem_.head_dim;
    const float log_sum_exp = gradients_.log_sum_exp.at(row.batch, row.head, row.query.row);
    const float delta = gradients_.delta.at(row.batch, row.head, row.query.row);
    float q[kMaximumHeadDim];
    float grad_out[kMaximumHeadDim];
    float dq[kMaximumHeadDim] = {};
    read_row(problem_.q, row.batch, row.query.row, row.head, head_dim, q);
    read_row(gradients_.grad_out, row.batch, row.query.row, row.head, head_dim, grad_out);
    problem_.for_seen_keys(row.batch, row.head, row.query, [&](const RowTile& stretch) {
      for_chunks(stretch, [&](const RowTile& keys) {
        float slopes[kChunk];
        float products[kChunk];
        multiply_rows(q, problem_.k, row.batch, row.key_head, keys, head_dim, problem_.scale,
                      slopes);
        multiply_rows(grad_out, problem_.v, row.batch, row.key_head, keys, head_dim, 1.0F,
                      products);
        drop(row, keys, products);
        for (std::int64_t i = 0; i < keys.length; ++i) {
          slopes[i] = weight_of(slopes[i], log_sum_exp) * (products[i] - delta);
        }
        add_weighted_rows([&](std::int64_t i) { return slopes[i]; }, problem_.k, row.batch,
                          row.key_head, keys, head_dim, dq);
      });
    });
    write_row(gradients_.dq, row.batch, row.query.row, row.head, head_dim, dq, problem_.scale,
              gradients_.accumulate);
  }

  KOKKOS_INLINE_FUNCTION void operator()(KeyGradients, const std::int64_t index) const {
    const int head_dim = problem_.head_dim;
    const std::int64_t batch = index / problem_.key_tokens / problem_.key_heads;
    const std::int64_t key_head = index / problem_.key_tokens % problem_.key_heads;
    const RowTile key = problem_.key_row(index % problem_.key_tokens);
    float k[kMaximumHeadDim];
    float v[kMaximumHeadDim];
    float dk[kMaximumHeadDim] = {};
    float dv[kMaximumHeadDim] = {};
    read_row(problem_.k, batch, key.row, key_head, head_dim, k);
    read_row(problem_.v, batch, key.row, key_head, head_dim, v);
    for (std::int64_t h = 0; h < problem_.heads_per_key_head; ++h) {
      const std::int64_t head = key_head * problem_.heads_per_key_head + h;
      problem_.for_seeing_queries(batch, head, key, [&](const RowTile& stretch) {
        for_chunks(stretch, [&](const RowTile& queries) {
          float weights[kChunk];
          float slopes[kChunk];
          multiply_rows(k, problem_.q, batch, head, queries, head_dim, problem_.scale, weights);
          multiply_rows(v, gradients_.grad_out, batch, head, queries, head_dim, 1.0F, slopes);
          for (std::int64_t i = 0; i < queries.length; ++i) {
            const std::int64_t token = queries.row + i;
            const float weight =
                weight_of(weights[i], gradients_.log_sum_exp.at(batch, head, token));
            const float factor =
                problem_.dropout.factor(batch, head, rows_within(queries, token, token + 1), key);
            weights[i] = factor * weight;
            slopes[i] = weight * (factor * slopes[i] - gradients_.delta.at(batch, head, token));
          }
          add_weighted_rows([&](std::int64_t i) { return weights[i]; }, gradients_.grad_out, batch,
                            head, queries, head_dim, dv);
          add_weighted_rows([&](std::int64_t i) { return slopes[i]; }, problem_.q, batch, head,
                            queries, head_dim, dk);
        });
      });
    }
    write_row(gradients_.dk, batch, key.row, key_head, head_dim, dk, problem_.scale,
              gradients_.accumulate);
    write_row(gradients_.dv, batch, key.row, key_head, head_dim, dv, 1.0F, gradients_.accumulate);
  }

 private:
  struct Row {
    std::int64_t batch;
    std::int64_t head;
    std::int64_t key_head;
    RowTile query;
  };

  template <class Pass>
  void launch(const char* name, std::int64_t rows) const {
    using Rows = Kokkos::RangePolicy<Space, Pass, Kokkos::IndexType<std::int64_t>>;
    Kokkos::parallel_for(name, Rows(0, rows), *this);
  }

  [[nodiscard]] std::int64_t query_rows() const {
    return problem_.batch * problem_.heads * problem_.query_tokens;
  }

  [[nodiscard]] KOKKOS_INLINE_FUNCTION Row query_row(std::int64_t index) const {
    const std::int64_t head = index / problem_.query_tokens % problem_.heads;
    const std::int64_t batch = index / problem_.query_tokens / problem_.heads;
    return {batch, head, head / problem_.heads_per_key_head,
            problem_.query_row(batch, index % problem_.query_tokens)};
  }

  /// Multiplies what belongs to each key by dropout's factor.
  KOKKOS_INLINE_FUNCTION void drop(const Row& row, const RowTile& keys, float* values) const {
    if (!problem_.dropout.active()) return;
    problem_.dropout.for_keys(
        row.batch, row.head, row.query, keys.position, keys.length,
        [&](std::int64_t i, bool dropped) { values[i] *= dropped ? 0.0F : problem_.dropout.kept; });
  }

  ProblemView<Space> problem_;
  Operand out_;
  RowValues log_sum_exp_;
  GradientView gradients_;
};

}  // namespace portolan::portable
