// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "parallel/device_communicator.hpp"

namespace portolan {

/// Collectives of equal blocks of host tensors by `peers`, which outlives them: stands for those of
/// a device's library. Throws std::runtime_error where a caller breaks their contract.
[[nodiscard]] std::unique_ptr<DeviceCollectives> make_host_blocks(Communicator& peers);

}  // namespace portolan
