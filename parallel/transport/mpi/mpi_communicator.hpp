// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "parallel/communicator.hpp"
#include "parallel/transport/mpi/mpi_group.hpp"

namespace portolan {

/// Collectives of messages between the group's ranks. Every rank sums its slice of what it
/// receives, in rank order, so the results do not depend on the MPI library; chunks bound the
/// staging memory. Needs a group of at least two ranks.
///
/// Blocks of a rotation travel from neighbour to neighbour, at most two in flight besides the own
/// one, and move on in the background while the current one is in use.
[[nodiscard]] std::unique_ptr<Communicator> make_mpi_communicator_over(const MpiGroup& group);

/// The rotation of make_mpi_communicator_over. `group` must outlive it.
[[nodiscard]] std::unique_ptr<RingRotation> make_mpi_rotation(const MpiGroup& group,
                                                              const Tensor& own);

}  // namespace portolan
