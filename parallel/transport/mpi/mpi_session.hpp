// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <memory>
#include <string_view>

namespace portolan {

class MpiWorld;

/// MPI from its initialisation to its end. One per process, made by the main thread at the
/// beginning and destroyed after all communicators and their rotations.
///
/// Every rank that fails should print its error and then call abort() inside the session's life. A
/// session that is destroyed by an exception, or after a communicator has failed, aborts by itself,
/// because an orderly end would wait for ranks that never come.
class MpiSession {
 public:
  /// Whether a launcher (mpirun, mpiexec, srun with PMI) started this process. Without one there is
  /// one rank, which needs no session.
  [[nodiscard]] static bool launched();

  /// Throws CommunicationError if MPI cannot be used.
  MpiSession(int& argc, char**& argv);
  /// Waits for all ranks, at most kFinalDeadline, then ends MPI.
  ~MpiSession();
  MpiSession(const MpiSession&) = delete;
  MpiSession& operator=(const MpiSession&) = delete;

  [[nodiscard]] int rank() const noexcept;
  [[nodiscard]] int size() const noexcept;
  /// Place among the ranks of this node, their number, and the number of nodes: for binding.
  [[nodiscard]] int local_rank() const noexcept;
  [[nodiscard]] int local_size() const noexcept;
  [[nodiscard]] int node_count() const noexcept;

  /// Ends all ranks. Before, it waits (seconds at most) until every rank has come here or cannot,
  /// so that each can say why it fails. The job's exit code is that of the first rank by number
  /// with another code than 1, which ranks have that fail only because others do. That rank prints
  /// `common_error`, if there is one: for what other ranks find as well. May be called from one
  /// thread only.
  [[noreturn]] void abort(int exit_code, std::string_view common_error = {}) noexcept;

  /// For the communicators over MPI.
  [[nodiscard]] const std::shared_ptr<MpiWorld>& world() const noexcept { return world_; }

  /// Ranks may finish their work at different times, e.g. while rank 0 writes a file.
  static constexpr std::chrono::minutes kFinalDeadline{10};

 private:
  std::shared_ptr<MpiWorld> world_;
  int exceptions_at_start_;
};

}  // namespace portolan
