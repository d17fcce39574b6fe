// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "attention/attention.hpp"

namespace portolan {

/// Method flash on device `cpu`: tiles with online softmax (FlashAttention-2: Dao 2023,
/// arXiv:2307.08691), their products through code that libxsmm generates for the CPU, bf16 operands
/// multiplied as such where the CPU can (AVX512_BF16), else in f32 like f16. Parallel over
/// key/value heads and blocks of queries on OpenMP threads; results do not depend on their number.
/// Scratch is a few MB a thread whatever the lengths.
///
/// Serves x86 CPUs with AVX2 and above.
///
/// `method` is what it is registered as: flash, or window or block_sparse, which are the same code
/// for masks that have such a thing. Tiles that the mask hides are skipped, whatever hides them.
/// `tiles` is what a problem that names none gets.
[[nodiscard]] std::unique_ptr<AttentionForwardKernel> make_openmp_flash_attention(
    AttentionMethod method = AttentionMethod::flash, AttentionTileTable tiles = {});

/// Its gradient: weights recomputed from the log-sum-exp tile by tile, five products a tile.
/// Scratch is five times the keys in f32 of each key head that is worked on at a time: one a
/// thread, or all of them where there are fewer than threads. With a window it is those keys that
/// are in reach.
[[nodiscard]] std::unique_ptr<AttentionBackwardKernel> make_openmp_flash_attention_backward(
    AttentionMethod method = AttentionMethod::flash, AttentionTileTable tiles = {});

}  // namespace portolan
