// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <Kokkos_Core.hpp>
#include <cmath>
#include <cstdint>
#include <limits>

#include "attention/portable/operands.hpp"

namespace portolan::portable {

/// The textbook forward pass: all scores in memory, then their softmax, then the product with the
/// values; each an own pass (Vaswani et al. 2017, arXiv:1706.03762). The yardstick for the others.
template <typename Space, typename T, typename Out>
class StandardForward {
 public:
  struct Scores {};
  struct Softmax {};
  struct Product {};

  /// Columns computed together: a few vector registers.
  static constexpr int kLanes = 16;

  /// scores: [batch, heads, query_tokens, key_tokens] f32.
  StandardForward(const Operands<T, Out>& operands, const RowTile* query_runs, int query_run_count,
                  const RowTile* key_runs, int key_run_count, float* scores)
      : operands_(operands),
        query_runs_(query_runs),
        query_run_count_(query_run_count),
        key_runs_(key_runs),
        key_run_count_(key_run_count),
        scores_(scores) {}

  void launch() const {
    const std::int64_t rows = operands_.batch * operands_.heads * operands_.query_tokens;
    Kokkos::parallel_for("Portolan::Attention::standard_scores",
                         Kokkos::RangePolicy<Space, Scores>(0, rows), *this);
    Kokkos::parallel_for("Portolan::Attention::standard_softmax",
                         Kokkos::RangePolicy<Space, Softmax>(0, rows), *this);
    Kokkos::parallel_for("Portolan::Attention::standard_product",
                         Kokkos::RangePolicy<Space, Product>(0, rows), *this);
  }

  KOKKOS_INLINE_FUNCTION void operator()(Scores, const std::int64_t index) const {
    const Row row = locate(index);
    const T* q = operands_.q + operands_.q_strides.offset(row.batch, row.token, row.head);
    const T* k = operands_.k + operands_.k_strides.offset(row.batch, 0, row.key_head);
    float* scores = scores_ + index * operands_.key_tokens;
    const std::int64_t position = position_of(row.token);
    for (int r = 0; r < key_run_count_; ++r) {
      const RowTile& run = key_runs_[r];
      for (std::int64_t i = 0; i < run.length; ++i) {
        const std::int64_t key = run.row + i;
        scores[key] = operands_.rule.sees(position, run.position + i)
                          ? operands_.scale * dot(q, k + key * operands_.k_strides.token)
                          : -std::numeric_limits<float>::infinity();
      }
    }
  }

  KOKKOS_INLINE_FUNCTION void operator()(Softmax, const std::int64_t index) const {
    const Row row = locate(index);
    float* scores = scores_ + index * operands_.key_tokens;
    const float nothing = -std::numeric_limits<float>::infinity();
    float maximum = nothing;
    for (std::int64_t key = 0; key < operands_.key_tokens; ++key) {
      maximum = scores[key] > maximum ? scores[key] : maximum;
    }
    const float reference = maximum == nothing ? 0.0F : maximum;
    float sum = 0.0F;
    for (std::int64_t key = 0; key < operands_.key_tokens; ++key) {
      scores[key] = std::exp(scores[key] - reference);
      sum += scores[key];
    }
    for (std::int64_t key = 0; key < operands_.key_tokens; ++key) {
      scores[key] = sum == 0.0F ? 0.0F : scores[key] / sum;
    }
    operands_.store_log_sum_exp(row.batch, row.head, row.token,
                                sum == 0.0F ? nothing : reference + std::log(sum));
  }

  KOKKOS_INLINE_FUNCTION void operator()(Product, const std::int64_t index) const {
    const Row row = locate(index);
    const float* weights = scores_ + index * operands_.key_tokens;
    const T* v = operands_.v + operands_.v_strides.offset(row.batch, 0, row.key_head);
    Out* out = operands_.out + operands_.out_strides.offset(row.batch, row.token, row.head);
    for (int begin = 0; begin < operands_.head_dim; begin += kLanes) {
      const int rest = operands_.head_dim - begin;
      const int lanes = rest < kLanes ? rest : kLanes;
      float sums[kLanes] = {};
      for (std::int64_t key = 0; key < operands_.key_tokens; ++key) {
        const T* value = v + key * operands_.v_strides.token + begin;
        for (int lane = 0; lane < lanes; ++lane) sums[lane] += weights[key] * to_float(value[lane]);
      }
      for (int lane = 0; lane < lanes; ++lane) out[begin + lane] = from_float<Out>(sums[lane]);
    }
  }

 private:
  struct Row {
    std::int64_t batch;
    std::int64_t head;
    std::int64_t key_head;
    std::int64_t token;
  };

  [[nodiscard]] KOKKOS_INLINE_FUNCTION Row locate(std::int64_t index) const {
    const std::int64_t head = index / operands_.query_tokens % operands_.heads;
    return {index / operands_.query_tokens / operands_.heads, head,
            head / operands_.heads_per_key_head, index % operands_.query_tokens};
  }

  [[nodiscard]] KOKKOS_INLINE_FUNCTION std::int64_t position_of(std::int64_t token) const {
    int r = 0;
    while (r + 1 < query_run_count_ && token >= query_runs_[r].row + query_runs_[r].length) ++r;
    return query_runs_[r].position + token - query_runs_[r].row;
  }

  [[nodiscard]] KOKKOS_INLINE_FUNCTION float dot(const T* left, const T* right) const {
    float sums[kLanes] = {};
    int d = 0;
    for (; d + kLanes <= operands_.head_dim; d += kLanes) {
      for (int lane = 0; lane < kLanes; ++lane) {
        sums[lane] += to_float(left[d + lane]) * to_float(right[d + lane]);
      }
    }
    float sum = 0.0F;
    for (; d < operands_.head_dim; ++d) sum += to_float(left[d]) * to_float(right[d]);
    for (int lane = 0; lane < kLanes; ++lane) sum += sums[lane];
    return sum;
  }

  Operands<T, Out> operands_;
  const RowTile* query_runs_;
  int query_run_count_;
  const RowTile* key_runs_;
  int key_run_count_;
  float* scores_;
};

}  // namespace portolan::portable
