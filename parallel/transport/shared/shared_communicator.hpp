// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <memory>

#include "parallel/communicator.hpp"
#include "parallel/transport/shared/shared_segment.hpp"

/// Collectives between processes of one machine, by reading and writing each other's memory. Needs
/// no message passing: only a control block that all ranks have mapped.
namespace portolan {

/// A control block for `size` ranks. Either made before fork(), whose children inherit it, or made
/// by one rank and opened by the others by its name.
[[nodiscard]] SharedSegment make_shared_control(int size);

/// Collective: returns when all ranks have come, each with its own rank and the same control block,
/// which serves one communicator. Throws CommunicationError past the deadline or if the ranks
/// cannot map each other's memory.
///
/// How the collectives work. A tensor counts as in a window if it came from allocate().
///  - all_reduce, small: each rank copies its tensor to staging memory, and after one step every
///  rank
///    sums all copies. Large, in windows: rank r sums its slice of all tensors and writes it into
///    all of them, between two steps: each element is read and written once per copy. Large,
///    outside: the same on chunks in staging memory.
///  - reduce_scatter and all_gather read peers' windows in place (all_gather writes into them if
///  only
///    the full tensors are in windows), between two steps; else chunks go through staging memory.
///  - rotate: blocks do not move. current() is the owner's block itself; reading it is the
///  transfer. A
///    step opens the rotation, a step in its destructor ends it; a failure of the latter is thrown
///    by the next call.
/// Staging memory is double-buffered, which takes one step per chunk.
[[nodiscard]] std::unique_ptr<Communicator> make_shared_communicator(
    std::shared_ptr<SharedSegment> control, int rank, int size, std::chrono::milliseconds deadline);

}  // namespace portolan
