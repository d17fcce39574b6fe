// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>

namespace portolan {

/// Wall-clock time on the monotonic clock: never goes back when the system's clock is set.
class Stopwatch {
 public:
  /// Starts at once.
  Stopwatch() noexcept : start_(Clock::now()) {}

  /// Seconds since construction or the last restart.
  [[nodiscard]] double seconds() const noexcept { return seconds_between(start_, Clock::now()); }

  /// Seconds as seconds() gives them, and starts anew from the same instant: consecutive laps leave
  /// no time out.
  double restart() noexcept {
    const Clock::time_point now = Clock::now();
    const double elapsed = seconds_between(start_, now);
    start_ = now;
    return elapsed;
  }

 private:
  using Clock = std::chrono::steady_clock;

  static double seconds_between(Clock::time_point begin, Clock::time_point end) noexcept {
    return std::chrono::duration<double>(end - begin).count();
  }

  Clock::time_point start_;
};

}  // namespace portolan
