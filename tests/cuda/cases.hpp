// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "attention/cuda/attention_arguments.hpp"

/// What kernels are checked with on a GPU.
namespace portolan::cuda_testing {

struct Case {
  std::int64_t batch = 1;
  std::int64_t query_tokens = 0;
  std::int64_t key_tokens = 0;
  std::int64_t heads = 4;
  std::int64_t key_heads = 4;
  std::int64_t head_dim = 128;
  bool causal = true;
  std::int64_t window = 0;
  cuda::AttentionElement element = cuda::AttentionElement::bf16;
  cuda::AttentionOutput output = cuda::AttentionOutput::element;
  /// Packed sequences; `batch` and tokens then follow from them.
  std::vector<std::int32_t> query_lengths = {};
  std::vector<std::int32_t> key_lengths = {};
  bool small = false;  ///< run under a memory checker, too

  [[nodiscard]] bool packed() const { return !query_lengths.empty(); }
  [[nodiscard]] std::string text() const;
};

/// Of the forward and the backward pass.
[[nodiscard]] std::vector<Case> attention_cases();
/// Of decoding.
[[nodiscard]] std::vector<Case> decode_cases();

}  // namespace portolan::cuda_testing
