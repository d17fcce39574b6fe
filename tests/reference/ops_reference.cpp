// SPDX-License-Identifier: Apache-2.0
#include "tests/reference/ops_reference.hpp"

#include <cmath>
#include <cstddef>
#include <limits>

namespace portolan::reference {
namespace {

std::size_t at(std::int64_t index) { return static_cast<std::size_t>(index); }

}  // namespace

Values rms_norm(const Values& x, const Values& weight, double epsilon, std::int64_t rows) {
  const auto features = static_cast<std::int64_t>(weight.size());
  Values result(x.size());
  for (std::int64_t row = 0; row < rows; ++row) {
    double squares = 0.0;
    for (std::int64_t c = 0; c < features; ++c) {
      squares += x[at(row * features + c)] * x[at(row * features + c)];
    }
    const double root = std::sqrt(squares / static_cast<double>(features) + epsilon);
    for (std::int64_t c = 0; c < features; ++c) {
      result[at(row * features + c)] = x[at(row * features + c)] / root * weight[at(c)];
    }
  }
  return result;
}

Sums rotary_embedding(const Values& x, const std::vector<std::int32_t>& positions,
                      const Values& cosines, const Values& sines, std::int64_t heads,
                      std::int64_t head_dim) {
  Sums result{x, Values(x.size())};
  const std::int64_t half = head_dim / 2;
  for (std::size_t token = 0; token < positions.size(); ++token) {
    for (std::int64_t head = 0; head < heads; ++head) {
      for (std::int64_t i = 0; i < half; ++i) {
        const double cosine = cosines[at(positions[token] * half + i)];
        const double sine = sines[at(positions[token] * half + i)];
        const std::size_t first = (token * at(heads) + at(head)) * at(head_dim) + at(i);
        const std::size_t second = first + at(half);
        result.values[first] = x[first] * cosine - x[second] * sine;
        result.values[second] = x[first] * sine + x[second] * cosine;
        result.magnitudes[first] = std::abs(x[first] * cosine) + std::abs(x[second] * sine);
        result.magnitudes[second] = std::abs(x[first] * sine) + std::abs(x[second] * cosine);
      }
    }
  }
  return result;
}

Values swiglu(const Values& gate, const Values& up) {
  Values result(gate.size());
  for (std::size_t i = 0; i < gate.size(); ++i) {
    result[i] = gate[i] * (1.0 / (1.0 + std::exp(-gate[i]))) * up[i];
  }
  return result;
}

Sums sum(const std::vector<Values>& inputs) {
  Sums result{Values(inputs.at(0).size()), Values(inputs.at(0).size())};
  for (const Values& input : inputs) {
    for (std::size_t i = 0; i < input.size(); ++i) {
      result.values[i] += input[i];
      result.magnitudes[i] += std::abs(input[i]);
    }
  }
  return result;
}

Values embedding(const std::vector<std::int32_t>& ids, const Values& table, std::int64_t table_rows,
                 std::int64_t first_row) {
  const std::size_t hidden = table.size() / at(table_rows);
  Values result(ids.size() * hidden);
  for (std::size_t i = 0; i < ids.size(); ++i) {
    const std::int64_t row = ids[i] - first_row;
    if (row < 0 || row >= table_rows) continue;
    for (std::size_t c = 0; c < hidden; ++c) result[i * hidden + c] = table[at(row) * hidden + c];
  }
  return result;
}

Sums matmul(const Values& x, const Values& weight, std::int64_t rows, std::int64_t in_features,
            std::int64_t out_features, const Values& initial) {
  Sums result{Values(at(rows * out_features)), Values(at(rows * out_features))};
  for (std::int64_t row = 0; row < rows; ++row) {
    for (std::int64_t out = 0; out < out_features; ++out) {
      const std::size_t index = at(row * out_features + out);
      double value = initial.empty() ? 0.0 : initial[index];
      double magnitude = std::abs(value);
      for (std::int64_t k = 0; k < in_features; ++k) {
        const double product = x[at(row * in_features + k)] * weight[at(out * in_features + k)];
        value += product;
        magnitude += std::abs(product);
      }
      result.values[index] = value;
      result.magnitudes[index] = magnitude;
    }
  }
  return result;
}

PartialAttention merge_attention(const PartialAttention& first, const PartialAttention& second,
                                 std::int64_t batch, std::int64_t tokens, std::int64_t heads,
                                 std::int64_t head_dim) {
  PartialAttention result{Values(first.out.size()), Values(first.log_sum_exp.size())};
  for (std::int64_t b = 0; b < batch; ++b) {
    for (std::int64_t h = 0; h < heads; ++h) {
      for (std::int64_t t = 0; t < tokens; ++t) {
        const std::size_t row = at((b * heads + h) * tokens + t);
        const double first_sum = std::exp(first.log_sum_exp[row]);
        const double second_sum = std::exp(second.log_sum_exp[row]);
        const double total = first_sum + second_sum;
        result.log_sum_exp[row] =
            total > 0.0 ? std::log(total) : -std::numeric_limits<double>::infinity();
        for (std::int64_t d = 0; d < head_dim; ++d) {
          const std::size_t index = at(((b * tokens + t) * heads + h) * head_dim + d);
          result.out[index] =
              total > 0.0 ? (first.out[index] * first_sum + second.out[index] * second_sum) / total
                          : first.out[index];
        }
      }
    }
  }
  return result;
}

std::array<std::uint32_t, 4> philox(std::array<std::uint32_t, 4> counter,
                                    std::array<std::uint32_t, 2> key) {
  for (int round = 1; round <= 10; ++round) {
    const std::uint64_t left = 0xD2511F53ULL * counter[0];
    const std::uint64_t right = 0xCD9E8D57ULL * counter[2];
    const auto high = [](std::uint64_t value) { return static_cast<std::uint32_t>(value >> 32); };
    const auto low = [](std::uint64_t value) { return static_cast<std::uint32_t>(value); };
    counter = {high(right) ^ counter[1] ^ key[0], low(right), high(left) ^ counter[3] ^ key[1],
               low(left)};
    key = {key[0] + 0x9E3779B9U, key[1] + 0xBB67AE85U};
  }
  return counter;
}

}  // namespace portolan::reference
