// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>

#include "core/device.hpp"
#include "core/samples.hpp"

namespace portolan {

class Communicator;

/// Seconds that `work` takes on an idle device, until the device is idle again.
[[nodiscard]] double seconds_of(Device device, const std::function<void()>& work);

/// The same of the slowest rank, all ranks starting together. Collective.
[[nodiscard]] double slowest_seconds(Communicator& world, Device device,
                                     const std::function<void()>& work);

}  // namespace portolan
