// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "attention/cuda/attention_arguments.hpp"
#include "attention/cuda/score_mask.hpp"
#include "attention/problem.hpp"

/// From problems of the engine to calls of the CUDA kernels. Plain C++.
namespace portolan::cuda {

/// One call: some of the queries and all the keys that they see.
struct AttentionPart {
  IndexRange query_rows;
  IndexRange key_rows;   ///< empty if the queries see no key
  AttentionShape shape;  ///< offsets are left null
};

struct TranslatedProblem {
  /// Empty if kernels of this folder may serve the problem, else the reason why not.
  std::string reason;
  /// Their query rows follow each other and are all of the problem's.
  std::vector<AttentionPart> parts = {};
  /// Of packed sequences, for the device: first rows, and the number of rows. Empty: not packed.
  /// There is but one part then.
  std::vector<std::int32_t> query_offsets = {};
  std::vector<std::int32_t> key_offsets = {};

  /// Whether one call has all queries and all keys, so that it writes all of every result.
  [[nodiscard]] bool is_whole(const AttentionProblem& problem) const {
    return parts.size() == 1 && parts[0].key_rows.size() == problem.k.dim(1);
  }
};

/// Kernels know, of each sequence, one run of queries and one of keys that end at the same
/// position, or that all see each other. Of packed sequences each must be so. A single one may have
/// several runs, as the zigzag shards of ring attention do: each run of queries is a part of its
/// own, if the keys it sees lie next to each other and only the last run of them is cut by the
/// mask.
///
/// Cached rows are handed on as they are: a mask that hides nothing of a full cache hides nothing
/// of a shorter one.
///
/// Operands are read 16 bytes at a time.
[[nodiscard]] TranslatedProblem translate(const AttentionProblem& problem);

/// Of a tensor [B, S, H, D].
[[nodiscard]] AttentionStrides strides_of(const Tensor& tensor);
/// True if rows start at multiples of 16 bytes, and at multiples of 8 elements from each other.
[[nodiscard]] bool has_aligned_rows(const Tensor& tensor);

}  // namespace portolan::cuda
