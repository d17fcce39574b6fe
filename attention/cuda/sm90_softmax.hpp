// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "attention/cuda/device_function.hpp"
#include "attention/cuda/score_mask.hpp"
#include "attention/cuda/sm90_entry.hpp"
#include "attention/cuda/sm90_layout.hpp"

/// Softmax of score tiles as a warpgroup's accumulators hold them: each thread has parts of two
/// rows, and the four threads of a quad have those rows between them.
namespace portolan::cuda::sm90 {

template <typename Lane>
PORTOLAN_DEVICE float quad_maximum(const Lane& lane, float value) {
  value = lane.maximum(value, lane.shuffle_xor(value, 1));
  return lane.maximum(value, lane.shuffle_xor(value, 2));
}
template <typename Lane>
PORTOLAN_DEVICE float quad_sum(const Lane& lane, float value) {
  value += lane.shuffle_xor(value, 1);
  return value + lane.shuffle_xor(value, 2);
}

/// Sets to minus infinity the scores whose column, counted from `first_column`, is outside of what
/// their row sees.
template <int kCount, typename Lane>
PORTOLAN_DEVICE void hide_scores(const Lane& lane, float (&scores)[kCount],
                                 const IndexRange (&seen)[2], int first_column) {
  const int thread = lane.thread() % kWarpgroupThreads;
  PORTOLAN_UNROLL
  for (int i = 0; i < kCount; ++i) {
    const int column = first_column + accumulator_coordinate(thread, i).column;
    if (!seen[accumulator_row(i)].contains(column)) {
      scores[i] = -kInfinity;
    }
  }
}

/// A query's log-sum-exp to base 2, as the backward pass subtracts it from scores: infinity, which
/// leaves weights of 0, where the query sees no key.
PORTOLAN_DEVICE float log2_sum_of(float log_sum_exp) {
  return log_sum_exp == -kInfinity ? kInfinity : log_sum_exp * kLog2E;
}

/// Online softmax of two rows (Milakov and Gimelshein 2018): the largest score so far, of the whole
/// quad, and the sum of the exponentials relative to it, of this thread's columns alone.
struct SoftmaxRows {
  float largest[2] = {-kInfinity, -kInfinity};
  float sum[2] = {0.0F, 0.0F};

  /// Turns raw scores into exponentials relative to the new maximum; `rescale` is the factor that
  /// brings what was summed before to it.
  template <int kCount, typename Lane>
  PORTOLAN_DEVICE void take(const Lane& lane, float (&scores)[kCount], float (&rescale)[2],
                            float scale_log2) {
    const float before[2] = {largest[0], largest[1]};
    PORTOLAN_UNROLL
    for (int i = 0; i < kCount; ++i) {
      const int row = accumulator_row(i);
      largest[row] = lane.maximum(largest[row], scores[i]);
    }
    float origin[2];
    PORTOLAN_UNROLL
    for (int row = 0; row < 2; ++row) {
      largest[row] = quad_maximum(lane, largest[row]);
      // A row that sees nothing yet: any origin will do, its exponentials are 0.
      origin[row] = largest[row] == -kInfinity ? 0.0F : largest[row] * scale_log2;
      rescale[row] = lane.exp2(lane.multiply_add(before[row], scale_log2, -origin[row]));
      sum[row] *= rescale[row];
    }
    PORTOLAN_UNROLL
    for (int i = 0; i < kCount; ++i) {
      const int row = accumulator_row(i);
      scores[i] = lane.exp2(lane.multiply_add(scores[i], scale_log2, -origin[row]));
      sum[row] += scores[i];
    }
  }
};

}  // namespace portolan::cuda::sm90
