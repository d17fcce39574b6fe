// SPDX-License-Identifier: Apache-2.0
#include "apps/attention_error.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "apps/reference_error.hpp"
#include "core/random.hpp"

namespace portolan {
namespace {

constexpr int kForwardRows = 16;
constexpr int kBackwardRows = 8;
/// How far from the end the keys lie whose gradients are checked.
constexpr std::array<std::int64_t, 2> kKeysFromEnd{1, 7};

void add_scaled(std::vector<double>& sum, double factor, const float* values) {
  for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += factor * values[i];
}

}  // namespace

AttentionErrorSample::AttentionErrorSample(const AttentionProblem& problem)
    : mask_(problem.mask),
      scale_(problem.scale),
      batch_(problem.q.dim(0)),
      tokens_(problem.q.dim(1)),
      heads_(problem.q.dim(2)),
      key_heads_(problem.k.dim(2)),
      head_dim_(problem.q.dim(3)),
      q_(host_values(problem.q)),
      k_(host_values(problem.k)),
      v_(host_values(problem.v)) {}

bool AttentionErrorSample::sees(std::int64_t head, std::int64_t query, std::int64_t key) const {
  if (key > query || (mask_.window > 0 && query - key >= mask_.window)) return false;
  return !mask_.blocks || mask_.blocks->contains(head, query / mask_.blocks->block_queries,
                                                 key / mask_.blocks->block_keys);
}

const float* AttentionErrorSample::query_row(const std::vector<float>& values,
                                             const Place& at) const {
  return &values[static_cast<std::size_t>(((at.entry * tokens_ + at.position) * heads_ + at.head) *
                                          head_dim_)];
}

const float* AttentionErrorSample::key_row(const std::vector<float>& values, const Place& at,
                                           std::int64_t key) const {
  const std::int64_t key_head = at.head / (heads_ / key_heads_);
  return &values[static_cast<std::size_t>(((at.entry * tokens_ + key) * key_heads_ + key_head) *
                                          head_dim_)];
}

std::vector<double> AttentionErrorSample::weights(const Place& at) const {
  std::vector<double> weights(static_cast<std::size_t>(at.position + 1),
                              -std::numeric_limits<double>::infinity());
  for (std::int64_t key = 0; key <= at.position; ++key) {
    if (!sees(at.head, at.position, key)) continue;
    weights[static_cast<std::size_t>(key)] =
        scale_ * dot(query_row(q_, at), key_row(k_, at, key), head_dim_);
  }
  const double largest = *std::ranges::max_element(weights);
  double sum = 0.0;
  for (double& weight : weights) sum += weight = std::exp(weight - largest);
  for (double& weight : weights) weight /= sum;
  return weights;
}

AttentionErrorSample::RowGradient AttentionErrorSample::gradient(
    const Place& at, const std::vector<float>& grad_out) const {
  RowGradient row{weights(at), {}};
  row.score_gradients.resize(row.weights.size());
  double delta = 0.0;  // sum of out * grad_out
  for (std::size_t key = 0; key < row.weights.size(); ++key) {
    row.score_gradients[key] =
        dot(query_row(grad_out, at), key_row(v_, at, static_cast<std::int64_t>(key)), head_dim_);
    delta += row.weights[key] * row.score_gradients[key];
  }
  for (std::size_t key = 0; key < row.weights.size(); ++key) {
    row.score_gradients[key] = row.weights[key] * (row.score_gradients[key] - delta);
  }
  return row;
}

std::vector<AttentionErrorSample::Place> AttentionErrorSample::places(int count) const {
  const RandomKey key = random_key(0, "attention places");
  std::vector<Place> places{{batch_ - 1, heads_ - 1, tokens_ - 1}};
  for (int i = 1; i < count; ++i) {
    const auto words = random_words(key, static_cast<std::uint64_t>(i));
    places.push_back({words[0] % batch_, words[1] % heads_, words[2] % tokens_});
  }
  return places;
}

double AttentionErrorSample::forward_error(const Tensor& out) const {
  const std::vector<float> found = host_values(out);
  double largest = 0.0;
  for (const Place& at : places(kForwardRows)) {
    const std::vector<double> row = weights(at);
    std::vector<double> expected(static_cast<std::size_t>(head_dim_));
    for (std::size_t key = 0; key < row.size(); ++key) {
      add_scaled(expected, row[key], key_row(v_, at, static_cast<std::int64_t>(key)));
    }
    largest = std::max(largest, largest_difference(expected, query_row(found, at)));
  }
  return largest;
}

double AttentionErrorSample::backward_error(const AttentionGradients& gradients) const {
  const std::vector<float> grad_out = host_values(gradients.grad_out);
  const std::vector<float> dq = host_values(gradients.dq);
  double largest = key_error(gradients, grad_out);
  for (const Place& at : places(kBackwardRows)) {
    const RowGradient row = gradient(at, grad_out);
    std::vector<double> expected(static_cast<std::size_t>(head_dim_));
    for (std::size_t key = 0; key < row.weights.size(); ++key) {
      add_scaled(expected, scale_ * row.score_gradients[key],
                 key_row(k_, at, static_cast<std::int64_t>(key)));
    }
    largest = std::max(largest, largest_difference(expected, query_row(dq, at)));
  }
  return largest;
}

double AttentionErrorSample::key_error(const AttentionGradients& gradients,
                                       const std::vector<float>& grad_out) const {
  const std::vector<float> dk = host_values(gradients.dk);
  const std::vector<float> dv = host_values(gradients.dv);
  double largest = 0.0;
  for (const std::int64_t from_end : kKeysFromEnd) {
    const std::int64_t key = std::max<std::int64_t>(0, tokens_ - from_end);
    std::vector<double> expected_dk(static_cast<std::size_t>(head_dim_));
    std::vector<double> expected_dv(static_cast<std::size_t>(head_dim_));
    // Of the last key/value head, all query heads that read it.
    Place at{batch_ - 1, 0, 0};
    for (at.head = heads_ - heads_ / key_heads_; at.head < heads_; ++at.head) {
      for (at.position = key; at.position < tokens_; ++at.position) {
        const RowGradient row = gradient(at, grad_out);
        const auto column = static_cast<std::size_t>(key);
        add_scaled(expected_dk, scale_ * row.score_gradients[column], query_row(q_, at));
        add_scaled(expected_dv, row.weights[column], query_row(grad_out, at));
      }
    }
    at.head = heads_ - 1;
    largest = std::max({largest, largest_difference(expected_dk, key_row(dk, at, key)),
                        largest_difference(expected_dv, key_row(dv, at, key))});
  }
  return largest;
}

}  // namespace portolan
