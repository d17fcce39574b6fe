// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <iterator>
#include <string_view>

#include "attention/tiles.hpp"
#include "backends/compat/kokkos_runtime.hpp"
#include "core/backend.hpp"
#include "runtime/devices.hpp"
#include "tests/unit/checksums.hpp"
#include "tests/unit/devices.hpp"
#if defined(PORTOLAN_HAS_CUDA)
#include "backends/cuda/cuda_backend.hpp"
#endif

namespace {

/// Two threads whatever the machine, so that sharing out work is always tested and results do not
/// depend on where the tests run.
constexpr int kThreads = 2;

/// All devices of the build for the time of the run.
struct Devices {
  explicit Devices(int threads) : kokkos({.threads = threads, .device_id = 0}) {}

  portolan::KokkosRuntime kokkos;
  portolan::RegisteredDevices devices{0, portolan::AttentionTileTable()};
};

/// Kokkos with CUDA ends the process where there is no GPU, so that is found out before. A build
/// with a device whose tests cannot run has failed them.
bool devices_exist() {
#if defined(PORTOLAN_HAS_CUDA)
  if (const portolan::CudaDevices gpus = portolan::find_cuda_devices(); gpus.count == 0) {
    std::fprintf(stderr, "these tests run on device cuda, too, and no GPU was found: %s\n",
                 gpus.reason.c_str());
    return false;
  }
#endif
  return true;
}

TEST(Devices, AreThoseOfTheBuild) {
  const auto backends = portolan::registered_backends();
  ASSERT_EQ(backends.size(), std::size(portolan::testing_support::kDevices));
  for (std::size_t i = 0; i < backends.size(); ++i) {
    EXPECT_EQ(backends[i]->device(), (portolan::Device{portolan::testing_support::kDevices[i], 0}));
  }
}

}  // namespace

int main(int argc, char** argv) {
  // Kokkos' threads are fixed for a process, so a test compares processes.
  if (argc == 4 && std::string_view(argv[1]) == "--checksums") {
    const Devices devices(std::atoi(argv[3]));
    std::fputs(portolan::testing_support::checksum_lines(argv[2]).c_str(), stdout);
    return 0;
  }
  testing::InitGoogleTest(&argc, argv);
  if (testing::GTEST_FLAG(list_tests)) return RUN_ALL_TESTS();  // needs no device
  if (!devices_exist()) return 1;
  const Devices devices(kThreads);
  return RUN_ALL_TESTS();
}
