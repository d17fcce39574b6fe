// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "attention/attention.hpp"

/// Attention on any Kokkos execution space, for every problem that attention/attention.hpp
/// describes. Kokkos must be initialised when forward() is called.
namespace portolan {

/// Method flash, scratch O(tokens / 8).
[[nodiscard]] std::unique_ptr<AttentionForwardKernel> make_portable_attention_serial();
/// Method standard: all scores, batch * heads * query_tokens * key_tokens f32, are in memory.
[[nodiscard]] std::unique_ptr<AttentionForwardKernel> make_standard_attention_serial();

/// The same on device `cpu` (Kokkos::OpenMP); in builds with Portolan_ENABLE_OPENMP.
[[nodiscard]] std::unique_ptr<AttentionForwardKernel> make_portable_attention_openmp();
[[nodiscard]] std::unique_ptr<AttentionForwardKernel> make_standard_attention_openmp();

/// The same on device `cuda` (the default instance of Kokkos::Cuda); in builds with
/// Portolan_ENABLE_CUDA.
[[nodiscard]] std::unique_ptr<AttentionForwardKernel> make_portable_attention_cuda();
[[nodiscard]] std::unique_ptr<AttentionForwardKernel> make_standard_attention_cuda();

}  // namespace portolan
