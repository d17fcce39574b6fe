// SPDX-License-Identifier: Apache-2.0
#include "tests/reference/attention_reference.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "tests/reference/ops_reference.hpp"

namespace portolan::reference {
namespace {

constexpr double kNothing = -std::numeric_limits<double>::infinity();

double dot(const double* a, const double* b, std::int64_t count) {
  double sum = 0.0;
  for (std::int64_t i = 0; i < count; ++i) sum += a[i] * b[i];
  return sum;
}

double dot_of_magnitudes(const double* a, const double* b, std::int64_t count) {
  double sum = 0.0;
  for (std::int64_t i = 0; i < count; ++i) sum += std::abs(a[i] * b[i]);
  return sum;
}

/// Adds factor * from to sum, and |magnitude * from| to sum_of_magnitudes.
void add(double factor, double magnitude, const double* from, std::int64_t count, double* sum,
         double* sum_of_magnitudes) {
  for (std::int64_t i = 0; i < count; ++i) {
    sum[i] += factor * from[i];
    sum_of_magnitudes[i] += std::abs(magnitude * from[i]);
  }
}

std::int64_t query_position(const AttentionInput& in, std::int64_t batch, std::int64_t query) {
  const bool of_each_entry = std::ssize(in.query_positions) > in.query_tokens;
  return in.query_positions[of_each_entry ? batch * in.query_tokens + query : query];
}

/// One query of one head: where its row and those of its keys begin, and its softmax.
struct QueryRow {
  std::int64_t batch;
  std::int64_t head;
  std::int64_t token;
  std::int64_t query;  ///< offset into q
  double log_sum_exp;
  std::vector<double> weights;  ///< 0 for keys that are not seen; without dropout
};

std::int64_t key_offset(const AttentionInput& in, const QueryRow& row, std::int64_t key) {
  const std::int64_t key_head = row.head / (in.heads / in.key_heads);
  return ((row.batch * in.key_tokens + key) * in.key_heads + key_head) * in.head_dim;
}

QueryRow softmax_row(const AttentionInput& in, std::int64_t index) {
  QueryRow row{.batch = index / in.query_tokens / in.heads,
               .head = index / in.query_tokens % in.heads,
               .token = index % in.query_tokens,
               .query = 0,
               .log_sum_exp = kNothing,
               .weights = std::vector<double>(static_cast<std::size_t>(in.key_tokens), kNothing)};
  row.query = ((row.batch * in.query_tokens + row.token) * in.heads + row.head) * in.head_dim;
  double maximum = kNothing;
  for (std::int64_t j = 0; j < in.key_tokens; ++j) {
    if (!sees(in, row.batch, row.head, row.token, j)) continue;
    row.weights[j] = in.scale * dot(&in.q[row.query], &in.k[key_offset(in, row, j)], in.head_dim);
    maximum = std::max(maximum, row.weights[j]);
  }
  double sum = 0.0;
  for (const double score : row.weights)
    sum += maximum == kNothing ? 0.0 : std::exp(score - maximum);
  for (double& weight : row.weights) {
    weight = maximum == kNothing ? 0.0 : std::exp(weight - maximum) / sum;
  }
  if (maximum != kNothing) row.log_sum_exp = maximum + std::log(sum);
  return row;
}

}  // namespace

bool sees(const AttentionInput& input, std::int64_t query_position, std::int64_t key_position) {
  if (input.causal && key_position > query_position) return false;
  return input.window == 0 ||
         (key_position <= query_position && key_position > query_position - input.window);
}

bool sees(const AttentionInput& input, std::int64_t batch, std::int64_t head, std::int64_t query,
          std::int64_t key) {
  if (!sees(input, query_position(input, batch, query), input.key_positions[key])) return false;
  if (!input.query_sequences.empty() && input.query_sequences[query] != input.key_sequences[key]) {
    return false;
  }
  if (!input.key_begin.empty() && (key < input.key_begin[batch] || key >= input.key_end[batch])) {
    return false;
  }
  if (input.block_flags.empty()) return true;
  const std::int64_t rows = (input.query_tokens - 1) / input.block_queries + 1;
  const std::int64_t columns = (input.key_tokens - 1) / input.block_keys + 1;
  return input.block_flags[(head * rows + query / input.block_queries) * columns +
                           key / input.block_keys] != 0;
}

double weight_factor(const AttentionInput& input, std::int64_t batch, std::int64_t head,
                     std::int64_t query, std::int64_t key) {
  if (input.dropout == 0.0) return 1.0;
  const std::int64_t sequence = input.query_sequences.empty() ? 0 : input.query_sequences[query];
  const std::int64_t position = input.key_positions[key];
  const std::int64_t within = (position % 4 + 4) % 4;
  const std::uint64_t mixed = input.seed ^ input.stream;
  const std::uint32_t word =
      philox({static_cast<std::uint32_t>((position - within) / 4),
              static_cast<std::uint32_t>(query_position(input, batch, query)),
              static_cast<std::uint32_t>(input.first_head + head),
              static_cast<std::uint32_t>(input.first_entry + batch + sequence)},
             {static_cast<std::uint32_t>(mixed),
              static_cast<std::uint32_t>(mixed >> 32)})[static_cast<std::size_t>(within)];
  const bool dropped = word < std::floor(input.dropout * 4294967296.0);
  return dropped ? 0.0 : 1.0 / (1.0 - input.dropout);
}

AttentionOutput attention(const AttentionInput& in) {
  AttentionOutput result;
  result.out.assign(in.q.size(), 0.0);
  for (std::int64_t index = 0; index < in.batch * in.heads * in.query_tokens; ++index) {
    const QueryRow row = softmax_row(in, index);
    result.log_sum_exp.push_back(row.log_sum_exp);
    for (std::int64_t j = 0; j < in.key_tokens; ++j) {
      if (row.weights[j] == 0.0) continue;
      const double weight = row.weights[j] * weight_factor(in, row.batch, row.head, row.token, j);
      const double* v = &in.v[key_offset(in, row, j)];
      for (std::int64_t d = 0; d < in.head_dim; ++d) result.out[row.query + d] += weight * v[d];
    }
  }
  return result;
}

AttentionGradient attention_gradient(const AttentionInput& in,
                                     const std::vector<double>& grad_out) {
  const std::vector<double> out = attention(in).out;
  AttentionGradient result;
  result.dq.assign(in.q.size(), 0.0);
  result.dk.assign(in.k.size(), 0.0);
  result.dv.assign(in.v.size(), 0.0);
  result.dq_magnitude = result.dq;
  result.dk_magnitude = result.dk;
  result.dv_magnitude = result.dv;
  for (std::int64_t index = 0; index < in.batch * in.heads * in.query_tokens; ++index) {
    const QueryRow row = softmax_row(in, index);
    const double* slope_out = &grad_out[row.query];
    const double delta = dot(&out[row.query], slope_out, in.head_dim);
    const double delta_magnitude = dot_of_magnitudes(&out[row.query], slope_out, in.head_dim);
    result.delta.push_back(delta);
    for (std::int64_t j = 0; j < in.key_tokens; ++j) {
      if (row.weights[j] == 0.0) continue;
      const std::int64_t key = key_offset(in, row, j);
      const double factor = weight_factor(in, row.batch, row.head, row.token, j);
      const double kept = row.weights[j] * factor;
      add(kept, kept, slope_out, in.head_dim, &result.dv[key], &result.dv_magnitude[key]);
      const double slope =
          in.scale * row.weights[j] * (factor * dot(slope_out, &in.v[key], in.head_dim) - delta);
      const double magnitude =
          in.scale * row.weights[j] *
          (factor * dot_of_magnitudes(slope_out, &in.v[key], in.head_dim) + delta_magnitude);
      add(slope, magnitude, &in.k[key], in.head_dim, &result.dq[row.query],
          &result.dq_magnitude[row.query]);
      add(slope, magnitude, &in.q[row.query], in.head_dim, &result.dk[key],
          &result.dk_magnitude[key]);
    }
  }
  return result;
}

}  // namespace portolan::reference
