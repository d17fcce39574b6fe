// SPDX-License-Identifier: Apache-2.0
#include "tests/reference/attention_reference.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace portolan::reference {

bool sees(const AttentionInput& input, std::int64_t query_position, std::int64_t key_position) {
  if (input.causal && key_position > query_position) return false;
  return input.window == 0 ||
         (key_position <= query_position && key_position > query_position - input.window);
}

AttentionOutput attention(const AttentionInput& input) {
  const std::int64_t group = input.heads / input.key_heads;
  AttentionOutput result;
  result.out.assign(input.q.size(), 0.0);
  result.log_sum_exp.assign(
      static_cast<std::size_t>(input.batch * input.heads * input.query_tokens),
      -std::numeric_limits<double>::infinity());
  std::vector<double> scores(static_cast<std::size_t>(input.key_tokens));
  for (std::int64_t b = 0; b < input.batch; ++b) {
    for (std::int64_t h = 0; h < input.heads; ++h) {
      for (std::int64_t i = 0; i < input.query_tokens; ++i) {
        const double* q =
            &input.q[((b * input.query_tokens + i) * input.heads + h) * input.head_dim];
        double maximum = -std::numeric_limits<double>::infinity();
        for (std::int64_t j = 0; j < input.key_tokens; ++j) {
          const double* k =
              &input.k[((b * input.key_tokens + j) * input.key_heads + h / group) * input.head_dim];
          double product = 0.0;
          for (std::int64_t d = 0; d < input.head_dim; ++d) product += q[d] * k[d];
          scores[j] = sees(input, input.query_positions[i], input.key_positions[j])
                          ? product * input.scale
                          : -std::numeric_limits<double>::infinity();
          maximum = std::max(maximum, scores[j]);
        }
        if (std::isinf(maximum)) continue;
        double sum = 0.0;
        for (double& score : scores) sum += score = std::exp(score - maximum);
        double* out =
            &result.out[((b * input.query_tokens + i) * input.heads + h) * input.head_dim];
        for (std::int64_t j = 0; j < input.key_tokens; ++j) {
          const double* v =
              &input.v[((b * input.key_tokens + j) * input.key_heads + h / group) * input.head_dim];
          for (std::int64_t d = 0; d < input.head_dim; ++d) out[d] += scores[j] / sum * v[d];
        }
        result.log_sum_exp[(b * input.heads + h) * input.query_tokens + i] =
            maximum + std::log(sum);
      }
    }
  }
  return result;
}

}  // namespace portolan::reference
