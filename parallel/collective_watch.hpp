// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>

namespace portolan {

/// The deadline of collectives that a device carries out while the host goes on: a peer that never
/// comes would leave the host waiting for its device without an end. A thread asks whether the
/// collectives have ended, in the order in which they were started, which is that of their ends.
class CollectiveWatch {
 public:
  /// Called once, from the watching thread, with what was waited for; nothing is watched after. It
  /// has to end the job, as what the device would give after is wrong.
  using Lost = std::function<void(const std::string& reason)>;

  /// `deadline` is of each collective, from its start or from the end of the one before, whichever
  /// is later.
  CollectiveWatch(std::chrono::milliseconds deadline, Lost lost);
  ~CollectiveWatch();
  CollectiveWatch(const CollectiveWatch&) = delete;
  CollectiveWatch& operator=(const CollectiveWatch&) = delete;

  /// `operation` stays valid; `ended` is called from the watching thread and does not wait.
  void started(std::string_view operation, std::function<bool()> ended);

 private:
  using Clock = std::chrono::steady_clock;
  struct Collective {
    std::string_view operation;
    std::function<bool()> ended;
    Clock::time_point start;
  };

  void watch();

  std::chrono::milliseconds deadline_;
  Lost lost_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Collective> under_way_;
  bool stopping_ = false;
  std::thread thread_;  // last: it uses all the others
};

}  // namespace portolan
