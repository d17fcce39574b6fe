// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "backends/compat/kokkos.hpp"
#include "core/allocator.hpp"
#include "core/tensor.hpp"
#include "core/weight.hpp"

namespace portolan::openmp {

/// out = x W^T (or out += x W^T) by our own kernels, in f32, for every mix of dtypes, strides and
/// layouts and any CPU: what oneDNN has no fast implementation for. Threads share out the panels; a
/// plain weight is packed panel by panel into scratch.
void panel_matmul(const Kokkos::OpenMP& space, CachingAllocator& allocator, const Tensor& x,
                  const Weight& weight, const Tensor& out, bool accumulate);

}  // namespace portolan::openmp
