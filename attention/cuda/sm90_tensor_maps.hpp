// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda.h>
#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "attention/cuda/attention_arguments.hpp"
#include "attention/cuda/sm90_entry.hpp"

/// Tensor maps: what the copy engine has to know of a tensor [batch, tokens, heads, head_dim] to
/// copy boxes of one head's rows, 64 columns wide, to and from shared memory. The engine fills with
/// zeros what a box has outside of its entry, and does not write there: no kernel needs code for
/// ragged lengths, nor for a head_dim below the tile's columns.
namespace portolan::cuda::sm90 {

struct TensorDescription {
  const void* data = nullptr;
  AttentionStrides strides;
  std::int64_t heads = 0;
  bool of_queries = true;  ///< else its tokens are keys
  int box_rows = 0;        ///< tokens of a box, up to 256
};

/// Bytes of workspace that make_tensor_maps() needs for `count` tensors.
[[nodiscard]] std::size_t tensor_map_bytes(const AttentionShape& shape, int count);

/// Fills in `maps` for the `count` tensors; if sequences are packed, enqueues the kernel that
/// writes theirs to `workspace`.
[[nodiscard]] cudaError_t make_tensor_maps(TensorMaps<CUtensorMap>& maps,
                                           const AttentionShape& shape,
                                           const TensorDescription* tensors, int count,
                                           void* workspace, cudaStream_t stream);

}  // namespace portolan::cuda::sm90
