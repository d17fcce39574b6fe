// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "attention/cuda/attention_arguments.hpp"
#include "attention/cuda/device_function.hpp"
#include "attention/cuda/score_mask.hpp"
#include "attention/cuda/sm90_buffers.hpp"

namespace portolan::cuda::sm90 {

/// Most tensors that one kernel copies.
constexpr int kMostTensors = 8;

/// The maps of a kernel's tensors. If sequences are packed, each has maps of its own, bounded by
/// its length: `of_sequences` points to `count` of them for each sequence.
template <typename TensorMap>
struct TensorMaps {
  TensorMap maps[kMostTensors];
  const TensorMap* of_sequences = nullptr;
  int count = 0;
};

/// What all kernels are told.
template <typename TensorMap>
struct Problem {
  TensorMaps<TensorMap> tensors;
  AttentionShape shape;
  std::int64_t statistics_stride = 0;  ///< log_sum_exp's and delta's, from one head to the next
};

/// A result that goes to device memory as f32, row by row, and not through a tensor map.
struct FloatResult {
  float* data = nullptr;  ///< null: the result is of the dtype of q and has a tensor map
  AttentionStrides strides;
  bool adds = false;  ///< to what is there

  FloatResult() = default;
  FloatResult(void* result, AttentionOutput output, const AttentionStrides& result_strides)
      : data(output == AttentionOutput::element ? nullptr : static_cast<float*>(result)),
        strides(result_strides),
        adds(output == AttentionOutput::f32_sum) {}
};

/// log2(e): exponentials are taken to base 2, which the hardware has; and back.
constexpr float kLog2E = 1.4426950408889634F;
constexpr float kLn2 = 0.6931471805599453F;
constexpr float kInfinity = __builtin_huge_valf();

/// One batch entry or packed sequence.
template <typename TensorMap>
struct Entry {
  AttentionEntry where;
  const TensorMap* maps = nullptr;

  PORTOLAN_DEVICE Entry(const Problem<TensorMap>& problem, int index)
      : where(problem.shape, index), maps(problem.tensors.maps) {
    if (problem.tensors.of_sequences != nullptr) {
      maps = problem.tensors.of_sequences + index * problem.tensors.count;
    }
  }

  /// The map of a tensor, for the thread that is going to copy with it.
  template <typename Lane>
  PORTOLAN_DEVICE const TensorMap* map(const Lane& lane, const Problem<TensorMap>& problem,
                                       int tensor) const {
    if (problem.tensors.of_sequences != nullptr) {
      lane.acquire_tensor_map(maps + tensor);
    }
    return maps + tensor;
  }
  /// Of a box that starts at the first column of a head and a token.
  PORTOLAN_DEVICE BoxOrigin origin(int head, int token) const {
    return {0, head, token, static_cast<int>(where.entry)};
  }
};

}  // namespace portolan::cuda::sm90
