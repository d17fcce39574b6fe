// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <Kokkos_Core.hpp>
#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "core/backend.hpp"
#include "tests/unit/op_list.hpp"

namespace portolan::testing_support {
namespace {

namespace tools = Kokkos::Tools::Experimental;

/// What a profiling tool would have seen. Kokkos' callbacks are plain functions.
std::vector<std::string>& seen() {
  static std::vector<std::string> events;
  return events;
}

/// Kokkos' numbers of the execution spaces that ran kernels.
std::set<std::uint32_t>& kernel_devices() {
  static std::set<std::uint32_t> devices;
  return devices;
}

void on_push(const char* name) { seen().push_back("push " + std::string(name)); }
void on_pop() { seen().push_back("pop"); }
void on_kernel(const char* name, std::uint32_t device, std::uint64_t* kernel) {
  *kernel = 0;
  seen().push_back("kernel " + std::string(name));
  kernel_devices().insert(device);
}

/// A tool for the lifetime of the object.
class RecordingTool {
 public:
  RecordingTool() : before_(tools::get_callbacks()) {
    seen().clear();
    kernel_devices().clear();
    tools::set_push_region_callback(on_push);
    tools::set_pop_region_callback(on_pop);
    tools::set_begin_parallel_for_callback(on_kernel);
  }
  ~RecordingTool() { tools::set_callbacks(before_); }
  RecordingTool(const RecordingTool&) = delete;
  RecordingTool& operator=(const RecordingTool&) = delete;

 private:
  tools::EventSet before_;
};

TEST(OpsProfiling, RegionsReachKokkosTools) {
  for (const auto& backend : registered_backends()) {
    const RecordingTool tool;
    {
      const ProfilingRegion outer(backend->device(), "Portolan::Test::outer");
      const ProfilingRegion inner(backend->device(), "Portolan::Test::inner");
    }
    EXPECT_EQ(seen(), (std::vector<std::string>{"push Portolan::Test::outer",
                                                "push Portolan::Test::inner", "pop", "pop"}));
  }
}

/// Every kernel of ours is called by its component and operation.
TEST(OpsProfiling, KernelsAreNamed) {
  for (const auto& backend : registered_backends()) {
    for (const OpCase& op : op_list()) {
      const OpInstance instance = op.make(op.sizes.back(), op.dtypes.front(), backend->device());
      const RecordingTool tool;
      instance.run();
      for (const std::string& event : seen()) {
        if (!event.starts_with("kernel ")) continue;  // libraries may mark regions of their own
        EXPECT_TRUE(event.starts_with("kernel Portolan::") ||
                    event.starts_with("kernel KokkosBlas::"))
            << op.name << " ran " << event;
      }
      if (backend->device().kind == DeviceKind::serial) {
        EXPECT_EQ(kernel_devices(), std::set<std::uint32_t>{tools::device_id(Kokkos::Serial())})
            << op.name << " did not run on Kokkos::Serial alone";
      }
    }
  }
}

}  // namespace
}  // namespace portolan::testing_support
