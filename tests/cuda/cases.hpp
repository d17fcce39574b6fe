// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "attention/cuda/attention_arguments.hpp"

/// What the attention kernels are checked with, on a GPU and on emulated threads of a CPU.
namespace portolan::cuda_testing {

struct Case {
  std::int64_t batch = 1;
  std::int64_t query_tokens = 0;
  std::int64_t key_tokens = 0;
  std::int64_t heads = 1;
  std::int64_t key_heads = 1;
  std::int64_t head_dim = 64;
  bool causal = true;
  std::int64_t window = 0;
  cuda::AttentionElement element = cuda::AttentionElement::bf16;
  cuda::AttentionOutput output = cuda::AttentionOutput::element;
  /// Packed sequences; `batch` and tokens then follow from them.
  std::vector<std::int32_t> query_lengths = {};
  std::vector<std::int32_t> key_lengths = {};
  /// Of each entry, where the rows of its keys that hold tokens begin and end. Empty: all rows do.
  std::vector<std::int32_t> cached_rows = {};
  bool small = false;  ///< run under a memory checker, too

  [[nodiscard]] bool packed() const { return !query_lengths.empty(); }
  /// Of the tensors: packed sequences lie one after the other in one entry.
  [[nodiscard]] std::int64_t entries() const { return packed() ? 1 : batch; }
  [[nodiscard]] std::int64_t query_rows() const;
  [[nodiscard]] std::int64_t key_rows() const;
  /// Of an entry's cached rows, or of all rows.
  [[nodiscard]] std::int64_t first_key(std::int64_t entry) const;
  [[nodiscard]] std::int64_t end_key(std::int64_t entry) const;
  /// But for the offsets of packed sequences and cached rows, which the device has to have.
  [[nodiscard]] cuda::AttentionShape shape() const;
  [[nodiscard]] std::string text() const;
};

/// Where the sequences of packed rows start and end.
[[nodiscard]] std::vector<std::int32_t> offsets_of(const std::vector<std::int32_t>& lengths);

/// Of the forward and the backward pass.
[[nodiscard]] std::vector<Case> attention_cases();
/// Of decoding.
[[nodiscard]] std::vector<Case> decode_cases();

}  // namespace portolan::cuda_testing
