// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "attention/attention.hpp"

namespace portolan {

/// Attention in plain f64 at a sample of places, for causal problems of one sequence with as many
/// keys as queries, with a window or a block map. Shares no code with the kernels.
class AttentionErrorSample {
 public:
  /// Copies the operands to host memory. Places are a pure function of the shapes.
  explicit AttentionErrorSample(const AttentionProblem& problem);

  /// Largest |difference| of out [B, S, H, D] at sampled rows.
  [[nodiscard]] double forward_error(const Tensor& out) const;
  /// Largest |difference| of dq at sampled rows, and of dk and dv at keys near the end: under a
  /// causal mask few queries see these, so that few rows have to be computed.
  [[nodiscard]] double backward_error(const AttentionGradients& gradients) const;

 private:
  /// The weights of a query's row over the keys from 0 to its own position, and the gradients of
  /// its scores.
  struct RowGradient {
    std::vector<double> weights;
    std::vector<double> score_gradients;
  };
  struct Place {
    std::int64_t entry = 0;
    std::int64_t head = 0;
    std::int64_t position = 0;
  };

  [[nodiscard]] bool sees(std::int64_t head, std::int64_t query, std::int64_t key) const;
  [[nodiscard]] const float* query_row(const std::vector<float>& values, const Place& at) const;
  [[nodiscard]] const float* key_row(const std::vector<float>& values, const Place& at,
                                     std::int64_t key) const;
  [[nodiscard]] std::vector<double> weights(const Place& at) const;
  [[nodiscard]] RowGradient gradient(const Place& at, const std::vector<float>& grad_out) const;
  [[nodiscard]] std::vector<Place> places(int count) const;
  [[nodiscard]] double key_error(const AttentionGradients& gradients,
                                 const std::vector<float>& grad_out) const;

  AttentionMask mask_;
  double scale_;
  std::int64_t batch_, tokens_, heads_, key_heads_, head_dim_;
  std::vector<float> q_, k_, v_;
};

}  // namespace portolan
