// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "parallel/communicator.hpp"
#include "parallel/transport/mpi/mpi_session.hpp"
#include "parallel/transport_options.hpp"

namespace portolan {

/// The communicator of all ranks that MPI started. Collective. With `automatic`: one rank needs no
/// transport; ranks of one node share memory, or use MPI with one warning where memory cannot be
/// shared; several nodes share memory within and use MPI across.
///
/// The session must outlive it. Throws UnsupportedError if `shared` is asked for and impossible,
/// CommunicationError past the deadline.
[[nodiscard]] std::unique_ptr<Communicator> make_mpi_communicator(
    const MpiSession& session,
    const TransportOptions& options = TransportOptions::from_environment());

}  // namespace portolan
