// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>

namespace portolan {

/// `serial` is one core through Kokkos::Serial, `cpu` all cores of the process through
/// Kokkos::OpenMP and oneDNN, `cuda` one GPU.
enum class DeviceKind { serial, cpu, cuda };

/// Where a tensor's elements live and its operations run.
struct Device {
  DeviceKind kind = DeviceKind::cpu;
  int index = 0;

  friend bool operator==(const Device&, const Device&) = default;
};

/// "serial", "cpu", "cuda".
[[nodiscard]] std::string_view name_of(DeviceKind kind);

/// Inverse of name_of; throws UsageError for an unknown name.
[[nodiscard]] DeviceKind device_kind_from_name(std::string_view name);

/// True where the host can read the memory through plain pointers.
[[nodiscard]] constexpr bool is_host(Device device) { return device.kind != DeviceKind::cuda; }

}  // namespace portolan
