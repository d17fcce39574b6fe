// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "attention/cuda/sm90_layout.hpp"
#include "attention/cuda/sm90_primitives.cuh"
#include "attention/cuda/sm90_tiles.hpp"

/// Softmax of score tiles as a warpgroup's accumulators hold them: each thread has parts of two
/// rows, and the four threads of a quad have those rows between them.
namespace portolan::cuda::sm90 {

constexpr float kMinusInfinity = -__builtin_huge_valf();

/// Combines a value over the four threads of a quad.
__device__ __forceinline__ float quad_maximum(float value) {
  value = fmaxf(value, __shfl_xor_sync(~0U, value, 1));
  return fmaxf(value, __shfl_xor_sync(~0U, value, 2));
}
__device__ __forceinline__ float quad_sum(float value) {
  value += __shfl_xor_sync(~0U, value, 1);
  return value + __shfl_xor_sync(~0U, value, 2);
}

/// Sets to minus infinity the scores whose column, counted from `first_column`, is outside of what
/// their row sees.
template <int kCount>
__device__ __forceinline__ void hide_scores(float (&scores)[kCount], const Range (&seen)[2],
                                            int first_column) {
  const int thread = static_cast<int>(threadIdx.x) % kWarpgroupThreads;
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    const int column = first_column + accumulator_coordinate(thread, i).column;
    if (!seen[accumulator_row(i)].contains(column)) {
      scores[i] = kMinusInfinity;
    }
  }
}

/// Online softmax of two rows (Milakov and Gimelshein 2018): the largest score so far, of the whole
/// quad, and the sum of the exponentials relative to it, of this thread's columns alone.
struct SoftmaxRows {
  float maximum[2] = {kMinusInfinity, kMinusInfinity};
  float sum[2] = {0.0F, 0.0F};

  /// Turns raw scores into exponentials relative to the new maximum; `rescale` is the factor that
  /// brings what was summed before to it.
  template <int kCount>
  __device__ __forceinline__ void take(float (&scores)[kCount], float (&rescale)[2],
                                       float scale_log2) {
    float largest[2] = {maximum[0], maximum[1]};
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      largest[accumulator_row(i)] = fmaxf(largest[accumulator_row(i)], scores[i]);
    }
    float origin[2];
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      largest[row] = quad_maximum(largest[row]);
      // A row that sees nothing yet: any origin will do, its exponentials are 0.
      origin[row] = largest[row] == kMinusInfinity ? 0.0F : largest[row] * scale_log2;
      rescale[row] = exp2_fast(fmaf(maximum[row], scale_log2, -origin[row]));
      maximum[row] = largest[row];
      sum[row] *= rescale[row];
    }
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const int row = accumulator_row(i);
      scores[i] = exp2_fast(fmaf(scores[i], scale_log2, -origin[row]));
      sum[row] += scores[i];
    }
  }
};

}  // namespace portolan::cuda::sm90
