// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <string>

#include "core/device.hpp"

namespace portolan::testing_support {

/// The devices that this build has: what is tested by device is tested on each of them. main.cpp
/// registers them, and fails where one is missing rather than pass it over.
inline constexpr DeviceKind kDevices[] = {
    DeviceKind::serial,
#if defined(PORTOLAN_HAS_OPENMP)
    DeviceKind::cpu,
#endif
#if defined(PORTOLAN_HAS_CUDA)
    DeviceKind::cuda,
#endif
};

/// Of a test that has its device as parameter.
inline std::string name_of_device(const ::testing::TestParamInfo<DeviceKind>& info) {
  return std::string(name_of(info.param));
}

}  // namespace portolan::testing_support
