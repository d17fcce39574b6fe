// SPDX-License-Identifier: Apache-2.0
#include "parallel/collective_watch.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace portolan {
namespace {

// How late the end of a deadline may be seen; asking more often would take time from others.
constexpr std::chrono::milliseconds kShortestPause{1};
constexpr std::chrono::milliseconds kLongestPause{100};

}  // namespace

CollectiveWatch::CollectiveWatch(std::chrono::milliseconds deadline, Lost lost)
    : deadline_(deadline), lost_(std::move(lost)), thread_([this] { watch(); }) {}

CollectiveWatch::~CollectiveWatch() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_one();
  thread_.join();
}

void CollectiveWatch::started(std::string_view operation, std::function<bool()> ended) {
  const std::lock_guard lock(mutex_);
  under_way_.push_back({operation, std::move(ended), Clock::now()});
  if (under_way_.size() == 1) changed_.notify_one();
}

void CollectiveWatch::watch() {
  const auto pause = std::clamp(deadline_ / 10, kShortestPause, kLongestPause);
  Clock::time_point last_end;
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return stopping_ || !under_way_.empty(); });
    if (stopping_) return;
    while (!under_way_.empty() && under_way_.front().ended()) {
      under_way_.pop_front();
      last_end = Clock::now();
    }
    if (!under_way_.empty() &&
        Clock::now() - std::max(under_way_.front().start, last_end) >= deadline_) {
      const std::string reason =
          fmt::format("{} did not end within {:g} s", under_way_.front().operation,
                      std::chrono::duration<double>(deadline_).count());
      lock.unlock();
      lost_(reason);
      return;
    }
    changed_.wait_for(lock, pause, [this] { return stopping_; });
  }
}

}  // namespace portolan
