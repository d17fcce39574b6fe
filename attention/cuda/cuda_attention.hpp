// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "attention/kernel.hpp"

namespace portolan {

/// Methods flash and window on device `cuda`, by kernels in CUDA C++ (flash_attention.hpp): tiles
/// with online softmax on tensor cores (FlashAttention-2: Dao 2023, arXiv:2307.08691), those for
/// compute capability 9.0 where the GPU has it and they serve the shape, else those for 8.0; for up
/// to 16 queries the keys are split over the whole GPU (decode_attention.hpp).
///
/// Serve bf16 and f16, head_dim 64 and 128 (for 9.0 multiples of 8 up to 128), masks whose
/// sequences are one run of queries and one of keys each. `gpu` is the index of the GPU; `method`
/// is what the kernel is registered as.
[[nodiscard]] std::unique_ptr<AttentionForwardKernel> make_cuda_flash_attention(
    int gpu, AttentionMethod method);

/// Its gradient, in two passes: dq by queries; dk and dv by keys.
[[nodiscard]] std::unique_ptr<AttentionBackwardKernel> make_cuda_flash_attention_backward(
    int gpu, AttentionMethod method);

}  // namespace portolan
