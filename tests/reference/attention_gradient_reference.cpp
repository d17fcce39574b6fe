// SPDX-License-Identifier: Apache-2.0
#include "tests/reference/attention_gradient_reference.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace portolan::reference {
namespace {

double dot(const double* a, const double* b, std::int64_t count) {
  double sum = 0.0;
  for (std::int64_t i = 0; i < count; ++i) sum += a[i] * b[i];
  return sum;
}

void add(double factor, const double* from, double* to, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) to[i] += factor * from[i];
}

double dot_of_magnitudes(const double* a, const double* b, std::int64_t count) {
  double sum = 0.0;
  for (std::int64_t i = 0; i < count; ++i) sum += std::abs(a[i] * b[i]);
  return sum;
}

void add_magnitudes(double factor, const double* from, double* to, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) to[i] += std::abs(factor * from[i]);
}

}  // namespace

DenseAttentionResult dense_attention(const DenseAttentionInput& in) {
  const std::int64_t group = in.heads / in.key_heads;
  DenseAttentionResult result;
  result.out.assign(in.q.size(), 0.0);
  result.dq.assign(in.q.size(), 0.0);
  result.dk.assign(in.k.size(), 0.0);
  result.dv.assign(in.v.size(), 0.0);
  result.dq_magnitude = result.dq;
  result.dk_magnitude = result.dk;
  result.dv_magnitude = result.dv;
  const std::int64_t rows = in.batch * in.heads * in.query_tokens;
  result.log_sum_exp.assign(static_cast<std::size_t>(rows),
                            -std::numeric_limits<double>::infinity());
  result.delta.assign(static_cast<std::size_t>(rows), 0.0);
  std::vector<double> weights(static_cast<std::size_t>(in.key_tokens));
  for (std::int64_t row = 0; row < rows; ++row) {
    const std::int64_t b = row / (in.heads * in.query_tokens);
    const std::int64_t h = row / in.query_tokens % in.heads;
    const std::int64_t i = row % in.query_tokens;
    const std::int64_t query = ((b * in.query_tokens + i) * in.heads + h) * in.head_dim;
    const auto key = [&](std::int64_t j) {
      return ((b * in.key_tokens + j) * in.key_heads + h / group) * in.head_dim;
    };
    double sum = 0.0;
    double largest = -std::numeric_limits<double>::infinity();
    for (std::int64_t j = 0; j < in.key_tokens; ++j) {
      if (in.seen[row * in.key_tokens + j] == 0) continue;
      largest = std::max(largest, in.scale * dot(&in.q[query], &in.k[key(j)], in.head_dim));
    }
    for (std::int64_t j = 0; j < in.key_tokens; ++j) {
      weights[j] = 0.0;
      if (in.seen[row * in.key_tokens + j] == 0) continue;
      weights[j] = std::exp(in.scale * dot(&in.q[query], &in.k[key(j)], in.head_dim) - largest);
      sum += weights[j];
    }
    if (sum == 0.0) continue;
    result.log_sum_exp[row] = largest + std::log(sum);
    const auto factor = [&](std::int64_t j) {
      return in.weight_factor.empty() ? 1.0 : in.weight_factor[row * in.key_tokens + j];
    };
    for (std::int64_t j = 0; j < in.key_tokens; ++j) {
      weights[j] /= sum;
      add(weights[j] * factor(j), &in.v[key(j)], &result.out[query], in.head_dim);
    }
    const double* grad_out = &in.grad_out[query];
    const double delta_magnitude = dot_of_magnitudes(&result.out[query], grad_out, in.head_dim);
    result.delta[row] = dot(&result.out[query], grad_out, in.head_dim);
    for (std::int64_t j = 0; j < in.key_tokens; ++j) {
      if (in.seen[row * in.key_tokens + j] == 0) continue;
      add(weights[j] * factor(j), grad_out, &result.dv[key(j)], in.head_dim);
      const double slope = dot(grad_out, &in.v[key(j)], in.head_dim) * factor(j);
      const double score_slope = in.scale * weights[j] * (slope - result.delta[row]);
      add(score_slope, &in.k[key(j)], &result.dq[query], in.head_dim);
      add(score_slope, &in.q[query], &result.dk[key(j)], in.head_dim);
      const double magnitude =
          in.scale * weights[j] *
          (dot_of_magnitudes(grad_out, &in.v[key(j)], in.head_dim) * factor(j) + delta_magnitude);
      add_magnitudes(weights[j] * factor(j), grad_out, &result.dv_magnitude[key(j)], in.head_dim);
      add_magnitudes(magnitude, &in.k[key(j)], &result.dq_magnitude[query], in.head_dim);
      add_magnitudes(magnitude, &in.q[query], &result.dk_magnitude[key(j)], in.head_dim);
    }
  }
  return result;
}

}  // namespace portolan::reference
