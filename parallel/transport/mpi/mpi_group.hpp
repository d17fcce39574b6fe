// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/tensor.hpp"

namespace portolan {

class MpiWorld;
struct MpiMessages;

/// Some ranks of the job that exchange messages among themselves: what the collectives over MPI are
/// made of. No wait is MPI's own: messages are started without blocking and asked about until they
/// end or the deadline passes. Groups of one parent never mix up their messages. Cheap to copy.
class MpiGroup {
 public:
  /// All ranks. Collective: returns when all have come.
  [[nodiscard]] static MpiGroup all(const std::shared_ptr<MpiWorld>& world,
                                    std::chrono::milliseconds deadline);

  [[nodiscard]] int rank() const noexcept { return rank_; }
  [[nodiscard]] int size() const noexcept { return static_cast<int>(members_.size()); }
  /// The rank in the job of a rank of this group.
  [[nodiscard]] int world_rank(int rank) const { return members_[static_cast<std::size_t>(rank)]; }
  [[nodiscard]] std::chrono::milliseconds deadline() const noexcept { return deadline_; }

  /// Messages that travel together. Whatever has not ended when a batch is destroyed is given up.
  class Batch {
   public:
    /// `operation` names the batch in errors and stays valid. `memory` is what the messages are
    /// sent from and received into; it is kept as long as peers may reach for it.
    Batch(const MpiGroup& group, std::string_view operation,
          std::initializer_list<Tensor> memory = {});
    ~Batch();
    Batch(const Batch&) = delete;
    Batch& operator=(const Batch&) = delete;

    /// Any size.
    void send(const std::byte* data, std::int64_t bytes, int peer);
    void receive(std::byte* data, std::int64_t bytes, int peer);
    /// Keeps the messages moving while this thread does other things, where MPI allows.
    void progress_in_background();
    /// Throws CommunicationError past the deadline, counted from this call or from the last message
    /// that ended since, or if MPI or a peer fails.
    void wait();

   private:
    [[noreturn]] void fail(const std::string& reason);
    [[nodiscard]] std::string unfinished_peers() const;

    const MpiGroup& group_;
    std::string_view operation_;
    std::unique_ptr<MpiMessages> messages_;
  };

  /// Every rank's `own` (of one size) in rank order.
  [[nodiscard]] std::vector<std::byte> exchange(std::span<const std::byte> own,
                                                std::string_view operation) const;
  /// The group of the ranks that pass the same color, in the order of key, then rank. Collective.
  [[nodiscard]] MpiGroup split(int color, int key) const;
  /// Tells all ranks of the job that this one will not go on. Does not wait.
  void give_up(const std::string& reason) const noexcept;

 private:
  MpiGroup(std::shared_ptr<MpiWorld> world, std::chrono::milliseconds deadline,
           std::vector<int> members, int rank, int tag);

  std::shared_ptr<MpiWorld> world_;
  std::chrono::milliseconds deadline_;
  std::vector<int> members_;
  int rank_;
  int tag_;
};

}  // namespace portolan
