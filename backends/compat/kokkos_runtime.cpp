// SPDX-License-Identifier: Apache-2.0
#include "backends/compat/kokkos_runtime.hpp"

#include <fmt/format.h>

#include "backends/compat/kokkos.hpp"

namespace portolan {

KokkosRuntime::KokkosRuntime(const KokkosSettings& settings) {
#if KOKKOS_VERSION < 30700
  Kokkos::InitArguments arguments;
  if (settings.threads > 0) arguments.num_threads = settings.threads;
  if (settings.device_id >= 0) arguments.device_id = settings.device_id;
  arguments.disable_warnings = true;
  Kokkos::initialize(arguments);
#else
  Kokkos::InitializationSettings arguments;
  if (settings.threads > 0) arguments.set_num_threads(settings.threads);
  if (settings.device_id >= 0) arguments.set_device_id(settings.device_id);
  arguments.set_disable_warnings(true);
  Kokkos::initialize(arguments);
#endif
}

KokkosRuntime::~KokkosRuntime() { Kokkos::finalize(); }

std::string kokkos_version() {
  return fmt::format("{}.{}.{}", KOKKOS_VERSION / 10000, KOKKOS_VERSION / 100 % 100,
                     KOKKOS_VERSION % 100);
}

std::string kokkos_execution_spaces() {
  std::string names;
#if defined(KOKKOS_ENABLE_SERIAL)
  names += "Serial";
#endif
#if defined(KOKKOS_ENABLE_OPENMP)
  names += ", OpenMP";
#endif
#if defined(KOKKOS_ENABLE_CUDA)
  names += ", Cuda";
#endif
  return names;
}

}  // namespace portolan
