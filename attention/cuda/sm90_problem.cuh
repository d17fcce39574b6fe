// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "attention/cuda/flash_attention.hpp"
#include "attention/cuda/sm90_layout.hpp"
#include "attention/cuda/sm90_tensor_maps.hpp"
#include "attention/cuda/sm90_tiles.hpp"

namespace portolan::cuda::sm90 {

/// log2(e): exponentials are taken to base 2, which the hardware has.
constexpr float kLog2E = 1.4426950408889634F;
constexpr float kLn2 = 0.6931471805599453F;

/// AttentionShape as the kernels want it.
struct Problem {
  const std::int32_t* query_offsets = nullptr;
  const std::int32_t* key_offsets = nullptr;
  int query_tokens = 0;
  int key_tokens = 0;
  int heads = 0;
  int heads_per_key_head = 1;
  bool causal = false;
  int window = 0;
  float scale = 1.0F;
  float scale_log2 = 1.0F;  ///< scale * log2(e)
  std::int64_t statistics_stride = 0;
};

inline Problem make_problem(const AttentionShape& shape, std::int64_t statistics_stride) {
  Problem problem;
  problem.query_offsets = shape.query_offsets;
  problem.key_offsets = shape.key_offsets;
  problem.query_tokens = static_cast<int>(shape.query_tokens);
  problem.key_tokens = static_cast<int>(shape.key_tokens);
  problem.heads = static_cast<int>(shape.heads);
  problem.heads_per_key_head = static_cast<int>(shape.heads / shape.key_heads);
  problem.causal = shape.causal || shape.window > 0;
  // A window as long as the keys cuts nothing off.
  problem.window = shape.window < shape.key_tokens ? static_cast<int>(shape.window) : 0;
  problem.scale = shape.scale;
  problem.scale_log2 = shape.scale * kLog2E;
  problem.statistics_stride = statistics_stride;
  return problem;
}

/// One batch entry or packed sequence.
struct Entry {
  EntryMask mask;
  const CUtensorMap* maps = nullptr;
  int batch = 0;           ///< in the maps' last dimension
  bool own_maps = false;   ///< written by a kernel: acquire_tensor_map() before use
  std::int64_t first = 0;  ///< of its first query's statistics (log_sum_exp, delta) of head 0
};

__device__ inline Entry open_entry(const Problem& problem, const TensorMaps& maps, int batch) {
  Entry entry;
  entry.mask.causal = problem.causal;
  entry.mask.window = problem.window;
  if (problem.query_offsets == nullptr) {
    entry.mask.query_tokens = problem.query_tokens;
    entry.mask.key_tokens = problem.key_tokens;
    entry.maps = maps.maps;
    entry.batch = batch;
    entry.first = batch * problem.heads * problem.statistics_stride;
  } else {
    entry.first = problem.query_offsets[batch];
    entry.mask.query_tokens = problem.query_offsets[batch + 1] - problem.query_offsets[batch];
    entry.mask.key_tokens = problem.key_offsets[batch + 1] - problem.key_offsets[batch];
    entry.maps = maps.of_sequences + batch * maps.count;
    entry.own_maps = true;
  }
  return entry;
}

}  // namespace portolan::cuda::sm90
