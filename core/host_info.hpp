// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace portolan {

/// The machine that a record was made on.
struct HostInfo {
  std::string host_name;
  /// "Linux 6.1.0-18-amd64".
  std::string operating_system;
  /// "x86_64", "aarch64".
  std::string architecture;
  /// As the processor names itself; "unknown" if it does not (many ARM processors).
  std::string cpu_model;
  /// Those of kCpuFeatures that every core and the kernel support, in that order.
  std::vector<std::string> cpu_features;

  [[nodiscard]] bool has(std::string_view feature) const;
};

/// Instruction sets that decide which kernels run and how fast, by the kernel's names for them.
/// Scalar and vector extensions of x86 first, then of ARM.
inline constexpr std::string_view kCpuFeatures[] = {
    "avx2",     "fma",      "f16c",        "avx_vnni",    "avx512f",     "avx512bw",
    "avx512dq", "avx512vl", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile",
    "amx_int8", "amx_bf16", "amx_fp16",    "asimd",       "asimddp",     "asimdhp",
    "sve",      "sve2",     "bf16",        "i8mm"};

/// Asks the operating system; what it does not tell is "unknown" or absent.
[[nodiscard]] HostInfo host_info();

/// The processor's part of HostInfo, from the text of a /proc/cpuinfo file.
[[nodiscard]] HostInfo parse_cpu_info(std::string_view text);

}  // namespace portolan
