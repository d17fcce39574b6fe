// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

namespace portolan {

struct KokkosSettings {
  int threads = 0;  ///< of Kokkos::OpenMP; 0: Kokkos' own choice (OMP_NUM_THREADS, else all cores)
  int device_id = -1;  ///< of Kokkos::Cuda; -1: Kokkos' own choice
};

/// Kokkos, initialised for the lifetime of the object. Make one per process, after MPI_Init and
/// before any backend; unregister the backends before it goes. Kokkos' warnings are switched off:
/// some versions print them to stdout.
class KokkosRuntime {
 public:
  explicit KokkosRuntime(const KokkosSettings& settings);
  ~KokkosRuntime();
  KokkosRuntime(const KokkosRuntime&) = delete;
  KokkosRuntime& operator=(const KokkosRuntime&) = delete;
};

/// "3.4.1".
[[nodiscard]] std::string kokkos_version();
/// Names of the execution spaces that Kokkos was built with, e.g. "Serial, OpenMP".
[[nodiscard]] std::string kokkos_execution_spaces();

}  // namespace portolan
