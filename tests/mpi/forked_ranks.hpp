// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/types.h>

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "parallel/communicator.hpp"
#include "parallel/transport/shared/shared_segment.hpp"

namespace portolan {

/// How a forked rank ended.
struct RankOutcome {
  static constexpr int kOk = 0;
  static constexpr int kCommunicationError = 3;
  static constexpr int kOtherError = 4;

  int exit_code = -1;  ///< -1 if a signal ended it
  int signal = 0;
  bool in_time = false;  ///< ended by itself before the harness lost patience
  std::string standard_error;
};

/// Ranks as children of this process, which share memory and need no launcher. This process must
/// have one thread only. Children that are left are killed by the destructor.
class ForkedRanks {
 public:
  using Body = std::function<void(Communicator& world)>;

  /// Each child makes the shared-memory communicator and runs `body`; what it throws becomes a line
  /// on its standard error and its exit code.
  ForkedRanks(int size, std::chrono::milliseconds deadline, const Body& body);
  ~ForkedRanks();
  ForkedRanks(const ForkedRanks&) = delete;
  ForkedRanks& operator=(const ForkedRanks&) = delete;

  /// Returns when every child has its communicator.
  void wait_until_running() const;
  void signal(int rank, int signal_number) const;
  /// Waits until each of `ranks` (default: all) has ended, or kills those that have not by then.
  [[nodiscard]] std::vector<RankOutcome> wait(std::chrono::milliseconds patience,
                                              const std::vector<int>& ranks = {});

 private:
  struct Child {
    pid_t process = 0;
    int standard_error = -1;
    bool ended = false;
    RankOutcome outcome;
  };
  void collect(Child& child, int status, bool in_time);

  SharedSegment started_;  ///< counts the children that have come so far
  std::vector<Child> children_;
};

}  // namespace portolan
