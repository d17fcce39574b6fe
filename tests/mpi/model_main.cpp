// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <string>

#include "core/ops.hpp"
#include "parallel/gather_values.hpp"
#include "runtime/runtime.hpp"
#include "tests/mpi/rank_printer.hpp"
#include "tests/mpi/test_runtime.hpp"

namespace portolan {
namespace {
Runtime* runtime = nullptr;  // main's
}  // namespace

Communicator& test_world() { return runtime->world(); }
Device test_device() { return runtime->device(); }

std::int64_t test_sum(std::int64_t value) {
  double sum = 0.0;
  for (const double part : gather_values(test_world(), static_cast<double>(value))) sum += part;
  return static_cast<std::int64_t>(sum);
}

std::vector<float> values_of(const Tensor& tensor) {
  const Tensor host = ops::to_host(tensor);
  const auto* const values = host.data<const float>();
  return {values, values + host.elements()};
}

}  // namespace portolan

/// Arguments: those of GoogleTest, then the device ("cpu", "serial" or "cuda").
int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  const portolan::DeviceKind device = portolan::device_kind_from_name(argc > 1 ? argv[1] : "cpu");
  portolan::Runtime runtime({.device = device, .threads = 0});
  portolan::runtime = &runtime;
  portolan::print_tests_from_rank_zero(runtime.world().rank());
  return RUN_ALL_TESTS();
}
