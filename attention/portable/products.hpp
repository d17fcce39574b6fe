// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "attention/portable/problem_view.hpp"

/// The two products that all methods consist of, done by one thread.
namespace portolan::portable {

/// sums[j] += sum over i < count of weights(i) * rows[i][j], j < columns. Four rows at a time, so
/// that sums are read and written once for four products; the loop over columns goes into vectors
/// whatever their width.
template <typename Weights, typename Value>
KOKKOS_INLINE_FUNCTION void add_products(const Weights& weights, const Value* rows,
                                         std::int64_t stride, std::int64_t count, int columns,
                                         float* __restrict__ sums) {
  std::int64_t i = 0;
  for (; i + 4 <= count; i += 4) {
    const float weight0 = weights(i);
    const float weight1 = weights(i + 1);
    const float weight2 = weights(i + 2);
    const float weight3 = weights(i + 3);
    const Value* __restrict__ row0 = rows + i * stride;
    const Value* __restrict__ row1 = row0 + stride;
    const Value* __restrict__ row2 = row1 + stride;
    const Value* __restrict__ row3 = row2 + stride;
    for (int j = 0; j < columns; ++j) {
      sums[j] += weight0 * to_float(row0[j]) + weight1 * to_float(row1[j]) +
                 (weight2 * to_float(row2[j]) + weight3 * to_float(row3[j]));
    }
  }
  for (; i < count; ++i) {
    const float weight = weights(i);
    const Value* __restrict__ row = rows + i * stride;
    for (int j = 0; j < columns; ++j) sums[j] += weight * to_float(row[j]);
  }
}

/// products[i] = factor * vector . rows[i], i < count.
template <typename Value>
KOKKOS_INLINE_FUNCTION void dot_products(const float* vector, const Value* rows,
                                         std::int64_t stride, std::int64_t count, int columns,
                                         float factor, float* products) {
  constexpr int kLanes = 16;  // a few vector registers
  for (std::int64_t i = 0; i < count; ++i) {
    const Value* __restrict__ row = rows + i * stride;
    float sums[kLanes] = {};
    int j = 0;
    for (; j + kLanes <= columns; j += kLanes) {
      for (int lane = 0; lane < kLanes; ++lane) {
        sums[lane] += vector[j + lane] * to_float(row[j + lane]);
      }
    }
    float sum = 0.0F;
    for (; j < columns; ++j) sum += vector[j] * to_float(row[j]);
    for (int lane = 0; lane < kLanes; ++lane) sum += sums[lane];
    products[i] = factor * sum;
  }
}

}  // namespace portolan::portable
