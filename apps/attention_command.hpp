// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "apps/options.hpp"
#include "attention/kernel.hpp"

namespace portolan {

/// How tensors lie in a file: bhsd [batch, heads, tokens, head_dim]; packed [tokens, heads,
/// head_dim], several sequences one after the other, which cu_seqlens_q and cu_seqlens_k cut.
enum class AttentionFileLayout { bhsd, packed };

struct AttentionRequest {
  struct BlockSize {
    std::int64_t queries = 0;
    std::int64_t keys = 0;
  };

  CommonOptions common;
  std::string input;
  std::string out;
  std::optional<AttentionMethod> method;  ///< absent: the first kernel that serves the problem
  bool causal = false;
  std::int64_t window = 0;         ///< 0: none
  std::optional<BlockSize> block;  ///< of block_map
  std::optional<double> scale;     ///< absent: 1 / sqrt(head_dim)
  AttentionFileLayout layout = AttentionFileLayout::bhsd;
  bool backward = false;
};

/// Runs attention on the tensors of a safetensors file and writes `o` and `lse`, with `backward`
/// also `dq`, `dk`, `dv`, all f32 in the input's layout. Throws InputError that names file and
/// tensor, UsageError and UnsupportedError; the output is complete or not there.
void run_attention(const AttentionRequest& request);

}  // namespace portolan
