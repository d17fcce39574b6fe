// SPDX-License-Identifier: Apache-2.0
#pragma once

// Without the C++ bindings that MPI 3 removed: some libraries still declare them.
#if !defined(OMPI_SKIP_MPICXX)
#define OMPI_SKIP_MPICXX 1
#endif
#if !defined(MPICH_SKIP_MPICXX)
#define MPICH_SKIP_MPICXX 1
#endif
#include <mpi.h>

#include <array>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "core/tensor.hpp"

/// Internal to the MPI transport: what its classes share of one process' MPI. Only sources of this
/// folder include it, so that nobody else sees MPI's header.
namespace portolan {

/// Messages that were started together and have not all ended.
struct MpiMessages {
  struct Message {
    MPI_Request request = MPI_REQUEST_NULL;
    int peer = 0;
    bool receives = false;
  };
  std::vector<Message> messages;
  /// What they are sent from and received into.
  std::vector<Tensor> memory;
  /// Set when MPI reports an error.
  std::string error;

  /// One round of MPI's progress; returns how many have not ended, 0 also when one has failed. The
  /// world's lock must be held.
  std::size_t test();
  /// Gives up what has not ended; returns whether there was any. The world's lock must be held.
  bool abandon() noexcept;
};

/// A private duplicate of MPI_COMM_WORLD. Every MPI call between initialisation and finalisation is
/// made under `mutex`, so MPI_THREAD_SERIALIZED is enough for a thread that keeps messages moving.
class MpiWorld {
 public:
  static constexpr int kFailureTag = 0;
  static constexpr int kEndTag = 1;
  static constexpr int kFirstTag = 2;
  static constexpr std::size_t kFailureBytes = 512;

  /// MPI is initialised.
  explicit MpiWorld(bool background_progress);
  ~MpiWorld();
  MpiWorld(const MpiWorld&) = delete;
  MpiWorld& operator=(const MpiWorld&) = delete;

  /// Must be called before MPI ends; no messages are possible after.
  void close();

  /// Moves `messages` on in a thread of its own until they end or release() is called for them.
  /// Does nothing if MPI may be called by one thread only.
  void progress(MpiMessages& messages);
  void release(MpiMessages& messages) noexcept;
  /// Gives up what has not ended. Peers may still read and write its memory, which is why it stays
  /// until the end of the process.
  void abandon(MpiMessages& messages) noexcept;

  /// Tells all ranks, once, that this one has failed. Does not wait.
  void announce_failure(const std::string& reason) noexcept;
  /// The reason if some rank, perhaps this one, has announced a failure, else empty.
  [[nodiscard]] std::string failure();

  /// Tells all ranks, once, that this one has said what it had to say and wants the job to end with
  /// that code; takes in who else does. Does not wait, not even for the lock, whose holder may be
  /// what hangs: to be called again and again.
  void exchange_ends(int exit_code) noexcept;
  /// By rank: the code with which it wants the job to end, or kGoesOn.
  std::vector<int> end_codes;
  static constexpr int kGoesOn = -1;

  std::mutex mutex;
  MPI_Comm communicator = MPI_COMM_NULL;
  int rank = 0;
  int size = 1;
  int next_tag = kFirstTag + 1;
  int highest_tag = 32767;
  /// By rank: the lowest rank on the same node, and the place among the node's ranks.
  std::vector<int> node_leader;
  std::vector<int> local_rank;

 private:
  void run_progress(const std::stop_token& stop);
  /// Sends without waiting; `data` stays as long as MPI does. The lock must be held.
  void send_to_all(const void* data, std::size_t bytes, int tag) noexcept;

  bool background_progress_;
  std::array<char, kFailureBytes> announcement_{};
  bool announced_ = false;
  std::string failure_;
  std::vector<Tensor> abandoned_memory_;
  std::condition_variable_any progress_wanted_;
  MpiMessages* in_background_ = nullptr;
  std::jthread progress_thread_;
};

/// Throws CommunicationError with MPI's text unless `code` is MPI_SUCCESS.
void check_mpi(int code, std::string_view operation);

}  // namespace portolan
