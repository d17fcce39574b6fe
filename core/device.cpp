// SPDX-License-Identifier: Apache-2.0
#include "core/device.hpp"

#include "core/error.hpp"

namespace portolan {

std::string_view name_of(DeviceKind kind) {
  switch (kind) {
    case DeviceKind::serial:
      return "serial";
    case DeviceKind::cpu:
      return "cpu";
    case DeviceKind::cuda:
      return "cuda";
  }
  return "unknown";
}

DeviceKind device_kind_from_name(std::string_view name) {
  for (const DeviceKind kind : {DeviceKind::serial, DeviceKind::cpu, DeviceKind::cuda}) {
    if (name_of(kind) == name) return kind;
  }
  throw UsageError(fmt::format("unknown device '{}': expected cpu, cuda or serial", name));
}

}  // namespace portolan
