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
[[nodiscard]] std::unique_ptr<AttentionForwardKernel> make_openmp_flash_attention();

}  // namespace portolan
