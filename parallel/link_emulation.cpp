// SPDX-License-Identifier: Apache-2.0
#include "parallel/link_emulation.hpp"

#include <array>
#include <charconv>
#include <cmath>
#include <thread>
#include <utility>

#include "core/error.hpp"

namespace portolan {
namespace {

using Unit = std::pair<std::string_view, double>;
// Longer names first: "s" ends all of them.
constexpr std::array<Unit, 4> kRates{{{"kB/s", 1e3}, {"MB/s", 1e6}, {"GB/s", 1e9}, {"B/s", 1.0}}};
constexpr std::array<Unit, 4> kTimes{{{"ms", 1e-3}, {"us", 1e-6}, {"ns", 1e-9}, {"s", 1.0}}};

[[noreturn]] void refuse(std::string_view text) {
  throw UsageError(fmt::format(
      "--emulate-link: expected a text like bandwidth=12.5GB/s,latency=5us, found '{}'", text));
}

/// A positive number with one of the units.
double quantity(std::string_view item, std::string_view text, const std::array<Unit, 4>& units) {
  for (const auto& [name, factor] : units) {
    if (!item.ends_with(name)) continue;
    const std::string_view number = item.substr(0, item.size() - name.size());
    double value = 0.0;
    const auto [end, failure] =
        std::from_chars(number.data(), number.data() + number.size(), value);
    if (failure != std::errc() || end != number.data() + number.size() || !std::isfinite(value) ||
        value <= 0.0) {
      refuse(text);
    }
    return value * factor;
  }
  refuse(text);
}

}  // namespace

LinkEmulation LinkEmulation::parse(std::string_view text) {
  LinkEmulation link;
  constexpr std::string_view kBandwidth = "bandwidth=";
  constexpr std::string_view kLatency = "latency=";
  for (std::size_t begin = 0; begin <= text.size();) {
    const std::size_t end = std::min(text.find(',', begin), text.size());
    const std::string_view item = text.substr(begin, end - begin);
    if (item.starts_with(kBandwidth) && link.bytes_per_second == 0.0) {
      link.bytes_per_second = quantity(item.substr(kBandwidth.size()), text, kRates);
    } else if (item.starts_with(kLatency) && link.latency_seconds == 0.0) {
      link.latency_seconds = quantity(item.substr(kLatency.size()), text, kTimes);
    } else {
      refuse(text);
    }
    begin = end + 1;
  }
  return link;
}

std::string LinkEmulation::to_string() const {
  std::string text;
  // Fewer digits than the numbers have: 50 us are not 49.99999999999999.
  if (bytes_per_second > 0.0) text = fmt::format("bandwidth={:.12g}GB/s", bytes_per_second * 1e-9);
  if (latency_seconds > 0.0) {
    text += fmt::format("{}latency={:.12g}us", text.empty() ? "" : ",", latency_seconds * 1e6);
  }
  return text;
}

double LinkEmulation::seconds(std::int64_t messages, std::int64_t bytes) const noexcept {
  const double transfer =
      bytes_per_second > 0.0 ? static_cast<double>(bytes) / bytes_per_second : 0.0;
  return static_cast<double>(messages) * latency_seconds + transfer;
}

void wait_until(std::chrono::steady_clock::time_point start, double seconds) {
  const auto end = start + std::chrono::duration_cast<std::chrono::steady_clock::duration>(
                               std::chrono::duration<double>(seconds));
  // Sleeping ends late by some 50 us; the rest is waited for awake.
  constexpr auto kAwake = std::chrono::microseconds(200);
  if (end - std::chrono::steady_clock::now() > kAwake) std::this_thread::sleep_until(end - kAwake);
  while (std::chrono::steady_clock::now() < end) std::this_thread::yield();
}

}  // namespace portolan
