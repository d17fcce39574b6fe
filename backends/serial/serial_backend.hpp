// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "core/backend.hpp"

namespace portolan {

/// The device `serial`: every operation on the calling thread, through Kokkos::Serial and Kokkos
/// Kernels. Kokkos must be initialised (backends/compat/kokkos_runtime.hpp).
[[nodiscard]] std::unique_ptr<Backend> make_serial_backend();

}  // namespace portolan
