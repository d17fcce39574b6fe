// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <limits>

#include "attention/cuda/attention_arguments.hpp"
#include "attention/cuda/decode_plan.hpp"

/// Why kernels do not serve a shape; null if they do.
namespace portolan::cuda {

/// What no kernel of this folder serves.
[[nodiscard]] constexpr const char* common_unsupported_reason(const AttentionShape& shape) {
  // Positions plus lengths are formed, too.
  constexpr std::int64_t kMost = std::numeric_limits<std::int32_t>::max() / 4;
  if (shape.key_heads <= 0 || shape.heads % shape.key_heads != 0) {
    return "the query heads are no multiple of the key/value heads";
  }
  // Maxima are of scores before they are scaled.
  if (!(shape.scale > 0.0F)) return "the scale is not positive";
  if (shape.query_tokens > kMost || shape.key_tokens > kMost || shape.window > kMost) {
    return "positions do not fit 32 bits";
  }
  if ((shape.query_offsets == nullptr) != (shape.key_offsets == nullptr)) {
    return "only one side is packed";
  }
  return nullptr;
}

/// What only the decoding kernel may serve.
[[nodiscard]] constexpr const char* whole_pass_unsupported_reason(const AttentionShape& shape) {
  if (const char* reason = common_unsupported_reason(shape)) return reason;
  if (shape.cached_rows != nullptr) return "only the decoding kernel takes cached rows";
  return nullptr;
}

/// What tiles of the sm_80 kernels are made for.
[[nodiscard]] constexpr const char* sm80_tile_unsupported_reason(const AttentionShape& shape) {
  if (shape.head_dim != 64 && shape.head_dim != 128) return "head_dim is neither 64 nor 128";
  return nullptr;
}

/// The sm_80 kernels, both passes.
[[nodiscard]] constexpr const char* sm80_unsupported_reason(const AttentionShape& shape) {
  if (const char* reason = whole_pass_unsupported_reason(shape)) return reason;
  return sm80_tile_unsupported_reason(shape);
}

/// The decoding kernel.
[[nodiscard]] constexpr const char* decode_kernel_unsupported_reason(const AttentionShape& shape) {
  if (const char* reason = common_unsupported_reason(shape)) return reason;
  if (const char* reason = sm80_tile_unsupported_reason(shape)) return reason;
  if (shape.query_offsets != nullptr) return "the decoding kernel takes no packed sequences";
  if (shape.query_tokens > kMaximumDecodeQueries) {
    return "the decoding kernel takes at most 16 queries";
  }
  return nullptr;
}

}  // namespace portolan::cuda
