// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cstddef>
#include <thread>
#include <vector>

#include "core/error.hpp"
#include "core/host_info.hpp"
#include "core/process_memory.hpp"
#include "core/timer.hpp"

namespace portolan {
namespace {

constexpr std::int64_t kBytes = std::int64_t{64} << 20;
/// The kernel's counters lag; see ProcessMemory.
constexpr std::int64_t kSlack = std::int64_t{8} << 20;

TEST(ProcessMemory, ParsesTheKernelsText) {
  const ProcessMemory memory =
      parse_process_status("Name:\tportolan\nVmHWM:\t    1780 kB\nVmRSS:\t    1500 kB\n");
  EXPECT_EQ(memory.resident, 1500 * 1024);
  EXPECT_EQ(memory.resident_peak, 1780 * 1024);
  EXPECT_THROW((void)parse_process_status(""), Error);
  EXPECT_THROW((void)parse_process_status("VmRSS:\t1 kB\n"), Error);
  EXPECT_THROW((void)parse_process_status("VmRSS:\t1 kB\nVmHWM:\tx kB\n"), Error);
  EXPECT_THROW((void)parse_process_status("VmRSS:\t1 kB\nVmHWM:\t1 MB\n"), Error);
}

TEST(ProcessMemory, FollowsWhatIsTouched) {
  const ProcessMemory before = process_memory();
  EXPECT_GT(before.resident, 0);
  EXPECT_GE(before.resident_peak + kSlack, before.resident);
  {
    const std::vector<std::byte> block(static_cast<std::size_t>(kBytes), std::byte{1});
    const ProcessMemory during = process_memory();
    EXPECT_GE(during.resident, before.resident + kBytes - kSlack);
    EXPECT_GE(during.resident_peak, during.resident - kSlack);
  }
  const ProcessMemory after = process_memory();
  EXPECT_GE(after.resident_peak, before.resident + kBytes - kSlack);
}

TEST(ProcessMemory, PeakStartsAnewWhereThatIsPermitted) {
  { const std::vector<std::byte> block(static_cast<std::size_t>(kBytes), std::byte{1}); }
  const ProcessMemory before = process_memory();
  const bool permitted = reset_resident_peak();
  const ProcessMemory after = process_memory();
  if (permitted) {
    EXPECT_LE(after.resident_peak, after.resident + kSlack);
  } else {
    EXPECT_GE(after.resident_peak, before.resident_peak);
  }
}

TEST(HostInfo, ParsesX86) {
  const HostInfo info = parse_cpu_info(
      "processor\t: 0\nmodel name\t: Intel(R) Xeon(R) Platinum 8460Y+\n"
      "flags\t\t: fpu sse2 avx2 fma avx512f avx512_bf16 amx_bf16 amx_tile\n\n"
      "processor\t: 1\nmodel name\t: Intel(R) Xeon(R) Platinum 8460Y+\n"
      "flags\t\t: fpu sse2 avx2 fma avx512f avx512_bf16 amx_tile\n");
  EXPECT_EQ(info.cpu_model, "Intel(R) Xeon(R) Platinum 8460Y+");
  // Without amx_bf16, which the second core lacks; in the order of kCpuFeatures.
  EXPECT_EQ(info.cpu_features,
            (std::vector<std::string>{"avx2", "fma", "avx512f", "avx512_bf16", "amx_tile"}));
  EXPECT_TRUE(info.has("avx512f"));
  EXPECT_FALSE(info.has("amx_bf16"));
}

TEST(HostInfo, ParsesArmAndNothing) {
  const HostInfo info =
      parse_cpu_info("processor\t: 0\nFeatures\t: fp asimd sve bf16 i8mm\nCPU part\t: 0xd40\n");
  EXPECT_EQ(info.cpu_model, "unknown");
  EXPECT_EQ(info.cpu_features, (std::vector<std::string>{"asimd", "sve", "bf16", "i8mm"}));
  EXPECT_TRUE(parse_cpu_info("").cpu_features.empty());
  EXPECT_TRUE(parse_cpu_info("flags\nmodel name").cpu_features.empty());
}

TEST(HostInfo, OfThisMachine) {
  const HostInfo info = host_info();
  EXPECT_FALSE(info.host_name.empty());
  EXPECT_FALSE(info.architecture.empty());
  EXPECT_TRUE(info.operating_system.starts_with("Linux ")) << info.operating_system;
  EXPECT_FALSE(info.cpu_model.empty());
}

TEST(Stopwatch, MeasuresAndRestarts) {
  using std::chrono::milliseconds;
  Stopwatch watch;
  std::this_thread::sleep_for(milliseconds(20));
  const double first = watch.seconds();
  EXPECT_GE(first, 0.020);
  EXPECT_GE(watch.restart(), first);
  EXPECT_LT(watch.seconds(), first);
}

}  // namespace
}  // namespace portolan
