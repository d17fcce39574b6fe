// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "core/backend.hpp"

namespace portolan {

/// The device `cpu`: all cores of the process through Kokkos::OpenMP, products by oneDNN, and the
/// hot operations as SIMD kernels for the instruction set found at run time. Kokkos must be
/// initialised (backends/compat/kokkos_runtime.hpp); the number of threads is Kokkos'.
[[nodiscard]] std::unique_ptr<Backend> make_openmp_backend();

}  // namespace portolan
