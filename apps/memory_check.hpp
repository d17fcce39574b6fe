// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>

#include "core/device.hpp"
#include "parallel/communicator.hpp"

namespace portolan {

/// What a rank will hold at the least, in bytes.
struct MemoryNeed {
  std::int64_t weights = 0;      ///< and all that is kept beside each weight in training
  std::int64_t activations = 0;  ///< while a forward pass runs
  std::int64_t cache = 0;        ///< of keys and values
};

/// Refuses a model before it is loaded if the memory of a node cannot hold it, rather than let the
/// system end a process, or swap, halfway. Only what is certain counts: the weights of all ranks of
/// the node with what they cache, and the activations of one. Nothing is asked of devices that are
/// not the host's. Collective. Throws OutOfMemoryError with the figures on every rank.
void require_memory(Communicator& world, Device device, const MemoryNeed& need);

/// Runs `prepare` on every rank. False on all of them if it threw OutOfMemoryError on any.
/// Collective.
[[nodiscard]] bool finds_memory(Communicator& world, const std::function<void()>& prepare);

}  // namespace portolan
