// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <string_view>

#include "attention/attention.hpp"
#include "attention/portable/portable_attention.hpp"
#include "backends/compat/kokkos_runtime.hpp"
#include "backends/serial/serial_backend.hpp"
#include "core/backend.hpp"
#include "tests/unit/checksums.hpp"
#if defined(PORTOLAN_HAS_OPENMP)
#include "attention/openmp/openmp_attention.hpp"
#include "backends/openmp/openmp_backend.hpp"
#endif

namespace {

/// The host devices for the time of the run.
class HostDevices {
 public:
  explicit HostDevices(int threads) : kokkos_({.threads = threads}) {
    portolan::register_backend(portolan::make_serial_backend());
    portolan::register_portable_attention_serial();
#if defined(PORTOLAN_HAS_OPENMP)
    portolan::register_backend(portolan::make_openmp_backend());
    for (const portolan::AttentionMethod method :
         {portolan::AttentionMethod::flash, portolan::AttentionMethod::window,
          portolan::AttentionMethod::block_sparse}) {
      portolan::register_attention_kernel(portolan::make_openmp_flash_attention(method));
      portolan::register_attention_kernel(portolan::make_openmp_flash_attention_backward(method));
    }
    portolan::register_portable_attention_openmp();
#endif
  }
  ~HostDevices() {
    portolan::unregister_attention_kernels();
    portolan::unregister_backends();
  }
  HostDevices(const HostDevices&) = delete;
  HostDevices& operator=(const HostDevices&) = delete;

 private:
  portolan::KokkosRuntime kokkos_;
};

/// Two threads whatever the machine, so that sharing out work is always tested and results do not
/// depend on where the tests run.
constexpr int kThreads = 2;

}  // namespace

int main(int argc, char** argv) {
  // Kokkos' threads are fixed for a process, so a test compares processes.
  if (argc == 4 && std::string_view(argv[1]) == "--checksums") {
    const HostDevices devices(std::atoi(argv[3]));
    std::fputs(portolan::testing_support::checksum_lines(argv[2]).c_str(), stdout);
    return 0;
  }
  testing::InitGoogleTest(&argc, argv);
  const HostDevices devices(kThreads);
  return RUN_ALL_TESTS();
}
