// SPDX-License-Identifier: Apache-2.0
#include "parallel/transport/mpi/mpi_session.hpp"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <thread>

#include "core/error.hpp"
#include "core/error_line.hpp"
#include "core/log.hpp"
#include "parallel/transport/mpi/mpi_group.hpp"
#include "parallel/transport/mpi/mpi_world.hpp"

namespace portolan {
namespace {

// Time for other ranks to notice and to say what they have to say. Those that do are not waited for
// any longer; this is for those that are stopped, or busy with something long.
constexpr std::chrono::seconds kAbortGrace{5};
constexpr std::chrono::milliseconds kAbortPoll{1};
// Code 1 may mean that a rank fails only because another one did.
constexpr int kFollowerCode = 1;

/// The rank whose code says most: the first whose failure is its own, else the first that fails.
int decisive_rank(const std::vector<int>& end_codes) {
  const auto own_failure = [](int code) {
    return code != MpiWorld::kGoesOn && code != kFollowerCode;
  };
  auto found = std::find_if(end_codes.begin(), end_codes.end(), own_failure);
  if (found == end_codes.end())
    found = std::find(end_codes.begin(), end_codes.end(), kFollowerCode);
  return static_cast<int>(found - end_codes.begin());
}

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

void MpiSession::abort(int exit_code, std::string_view common_error) noexcept {
  std::fflush(nullptr);
  const std::vector<int>& codes = world_->end_codes;
  const auto give_up_waiting = std::chrono::steady_clock::now() + kAbortGrace;
  do {
    world_->exchange_ends(exit_code);
    std::this_thread::sleep_for(kAbortPoll);
  } while (std::find(codes.begin(), codes.end(), MpiWorld::kGoesOn) != codes.end() &&
           std::chrono::steady_clock::now() < give_up_waiting);
  const int decisive = decisive_rank(codes);
  if (!common_error.empty() && (decisive == rank() || decisive >= size()))
    print_error(common_error);
  if (decisive < size()) exit_code = codes[static_cast<std::size_t>(decisive)];
  // One rank is enough to end the job, and launchers get confused by several. This process is ended
  // while it sleeps, unless that rank could not do it.
  if (decisive != rank()) std::this_thread::sleep_for(kAbortGrace);
  MPI_Abort(MPI_COMM_WORLD, exit_code);  // not under the world's lock: its holder may hang
  std::_Exit(exit_code);
}

}  // namespace portolan
