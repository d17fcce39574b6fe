// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

namespace portolan {

/// A slower link than the machine has, to see what a method would cost on it, and what it hides:
/// every collective takes at least as long as its bytes and messages would take there. A block that
/// travels while a rank computes takes that time from when it was sent for.
struct LinkEmulation {
  double bytes_per_second = 0.0;  ///< in each direction, of each rank; 0: the link as it is
  double latency_seconds = 0.0;   ///< of one message

  /// "bandwidth=12.5GB/s,latency=5us": either part may be left out; units B/s, kB/s, MB/s, GB/s
  /// (powers of ten) and s, ms, us, ns. Throws UsageError.
  [[nodiscard]] static LinkEmulation parse(std::string_view text);
  /// In the same form; empty if nothing is emulated.
  [[nodiscard]] std::string to_string() const;

  [[nodiscard]] bool active() const noexcept {
    return bytes_per_second > 0.0 || latency_seconds > 0.0;
  }
  /// Of `messages` one after the other that carry `bytes` together.
  [[nodiscard]] double seconds(std::int64_t messages, std::int64_t bytes) const noexcept;
  friend bool operator==(const LinkEmulation&, const LinkEmulation&) = default;
};

/// Waits, leaving the core to others, until `seconds` after `start`.
void wait_until(std::chrono::steady_clock::time_point start, double seconds);

}  // namespace portolan
