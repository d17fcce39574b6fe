// SPDX-License-Identifier: Apache-2.0
#include "parallel/transport/mpi/mpi_session.hpp"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <thread>

#include "core/error.hpp"
#include "core/log.hpp"
#include "parallel/transport/mpi/mpi_group.hpp"
#include "parallel/transport/mpi/mpi_world.hpp"

namespace portolan {
namespace {

// Time for other ranks to say what they have to say.
constexpr std::chrono::milliseconds kAbortGrace{500};
// Code 1 may mean that a rank fails only because another one did. If that has a code that says
// more, it is to be the job's, which is the code of the first to abort.
constexpr std::chrono::milliseconds kFollowerGrace{1500};
constexpr int kFollowerCode = 1;

}  // namespace

bool MpiSession::launched() {
  // Open MPI, PMIx (Open MPI 5, srun --mpi=pmix), MPICH and srun --mpi=pmi2, Intel MPI.
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_RANK", "PMI_SIZE"}) {
    if (std::getenv(name) != nullptr) return true;
  }
  return false;
}

MpiSession::MpiSession(int& argc, char**& argv) : exceptions_at_start_(std::uncaught_exceptions()) {
  int provided = MPI_THREAD_SINGLE;
  check_mpi(MPI_Init_thread(&argc, &argv, MPI_THREAD_SERIALIZED, &provided), "start of MPI");
  if (provided < MPI_THREAD_FUNNELED) {
    throw CommunicationError(
        "start of MPI: this MPI allows no threads, MPI_THREAD_FUNNELED is needed");
  }
  world_ = std::make_shared<MpiWorld>(provided >= MPI_THREAD_SERIALIZED);
}

MpiSession::~MpiSession() {
  if (std::uncaught_exceptions() > exceptions_at_start_ || !world_->failure().empty()) abort(1);
  try {
    (void)MpiGroup::all(world_, kFinalDeadline);
  } catch (const std::exception& error) {
    log().error("{}", error.what());
    abort(1);
  }
  world_->close();
  MPI_Finalize();
}

int MpiSession::rank() const noexcept { return world_->rank; }

int MpiSession::size() const noexcept { return world_->size; }

int MpiSession::local_rank() const noexcept {
  return world_->local_rank[static_cast<std::size_t>(world_->rank)];
}

int MpiSession::local_size() const noexcept {
  const std::vector<int>& leaders = world_->node_leader;
  return static_cast<int>(
      std::count(leaders.begin(), leaders.end(), leaders[static_cast<std::size_t>(world_->rank)]));
}

int MpiSession::node_count() const noexcept {
  const std::vector<int>& leaders = world_->node_leader;
  int nodes = 0;
  for (std::size_t rank = 0; rank < leaders.size(); ++rank) {
    if (leaders[rank] == static_cast<int>(rank)) ++nodes;
  }
  return nodes;
}

void MpiSession::abort(int exit_code) noexcept {
  std::fflush(nullptr);
  std::this_thread::sleep_for(exit_code == kFollowerCode ? kFollowerGrace : kAbortGrace);
  // Not under the world's lock: its holder may be what hangs.
  MPI_Abort(MPI_COMM_WORLD, exit_code);
  std::_Exit(exit_code);
}

}  // namespace portolan
