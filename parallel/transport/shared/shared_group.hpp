// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "parallel/transport/shared/control_block.hpp"

namespace portolan {

/// The meeting place of the ranks of a node: steps that all arrive at, each with a description of
/// what it brings. Waits spin briefly, then yield, then sleep; they end with a CommunicationError
/// when a peer has ended, has failed or left, or past the deadline. The first rank to fail records
/// why, which makes all others fail at their next or present wait with that reason.
class SharedGroup {
 public:
  /// A control block for `size` ranks, before they start or to be opened by them.
  [[nodiscard]] static SharedSegment make_control(int size);

  /// Announces this rank; nobody is waited for. All ranks must use the same deadline.
  SharedGroup(std::shared_ptr<SharedSegment> control, int rank, int size,
              std::chrono::milliseconds deadline);
  /// Tells peers that still wait for this rank that it will not come.
  ~SharedGroup();
  SharedGroup(const SharedGroup&) = delete;
  SharedGroup& operator=(const SharedGroup&) = delete;

  [[nodiscard]] int rank() const noexcept { return rank_; }
  [[nodiscard]] int size() const noexcept { return size_; }
  [[nodiscard]] std::chrono::milliseconds deadline() const noexcept { return deadline_; }
  [[nodiscard]] const std::shared_ptr<SharedSegment>& control() const noexcept { return control_; }
  [[nodiscard]] RankSlot& slot(int rank) noexcept { return block().slot(rank); }

  /// Parity of the next step: which half of a double buffer may be written now.
  [[nodiscard]] std::size_t next_parity() const noexcept { return (sequence_ + 1) % 2; }
  /// Arrives and waits for all. What was written before by any rank is visible after. Throws
  /// CommunicationError, also if the ranks came with different collectives.
  void step(const StepDescriptor& descriptor);
  /// What a rank brought to the last step; valid until this rank's next step.
  [[nodiscard]] const StepDescriptor& brought(int rank) noexcept {
    return slot(rank).descriptors[sequence_ % 2];
  }

  /// Records a failure for all ranks unless there is one already. Does not throw.
  void give_up(const std::string& reason) noexcept;
  /// Records the failure and throws it as CommunicationError.
  [[noreturn]] void fail(const std::string& reason);
  /// The same for something that went wrong with a peer after the last step.
  [[noreturn]] void fail_because_of(int peer, const std::string& reason);

 private:
  [[nodiscard]] ControlBlock& block() const noexcept {
    return *reinterpret_cast<ControlBlock*>(control_->data());
  }
  [[nodiscard]] std::string describe(const StepDescriptor& descriptor) const;
  [[nodiscard]] std::vector<int> missing_ranks();
  void wait(const StepDescriptor& descriptor);
  void check_failure(const StepDescriptor& descriptor);
  void check_peers(const StepDescriptor& descriptor);
  [[noreturn]] void fail_past_deadline(const StepDescriptor& descriptor);
  void check_agreement(const StepDescriptor& descriptor);

  std::shared_ptr<SharedSegment> control_;
  int rank_;
  int size_;
  std::chrono::milliseconds deadline_;
  int spins_;
  int exceptions_at_start_;
  std::uint64_t sequence_ = 0;
};

}  // namespace portolan
