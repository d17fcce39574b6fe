// SPDX-License-Identifier: Apache-2.0
#include "parallel/transport_options.hpp"

#include <cmath>
#include <cstdlib>
#include <optional>
#include <set>
#include <string>

#include "core/error.hpp"

namespace portolan {
namespace {

std::optional<std::string> variable(const char* name) {
  const char* value = std::getenv(name);
  if (value == nullptr || *value == '\0') return std::nullopt;
  return value;
}

double number(const char* name, const std::string& text) {
  char* end = nullptr;
  const double value = std::strtod(text.c_str(), &end);
  require(end == text.c_str() + text.size() && std::isfinite(value) && value > 0.0 && value <= 1e6,
          "{} must be a positive number, found '{}'", name, text);
  return value;
}

/// Why NCCL cannot serve, or nothing.
std::string nccl_obstacle(const GpuTransport& transport) {
  if (!transport.nccl_is_built) return "this build has none";
  if (transport.device != DeviceKind::cuda) {
    return fmt::format("device {} is no GPU", name_of(transport.device));
  }
  if (transport.emulates_link) return "it heeds no emulated link";
  const std::set<std::string> distinct(transport.gpus.begin(), transport.gpus.end());
  if (distinct.size() < transport.gpus.size()) {
    return fmt::format("{} ranks share {} GPU{}, it wants one for each", transport.gpus.size(),
                       distinct.size(), distinct.size() == 1 ? "" : "s");
  }
  return {};
}

}  // namespace

bool uses_nccl(const GpuTransport& transport, int ranks) {
  const bool wanted = transport.choice == TransportChoice::nccl;
  if (ranks == 1 || (!wanted && transport.choice != TransportChoice::automatic)) return false;
  const std::string obstacle = nccl_obstacle(transport);
  if (obstacle.empty()) return true;
  if (wanted) throw UnsupportedError(fmt::format("NCCL was asked for, but {}", obstacle));
  return false;
}

std::string_view name_of(TransportChoice choice) {
  switch (choice) {
    case TransportChoice::automatic:
      return "auto";
    case TransportChoice::mpi:
      return "mpi";
    case TransportChoice::shared:
      return "shared";
    case TransportChoice::nccl:
      return "nccl";
  }
  return "unknown";
}

TransportOptions TransportOptions::from_environment() {
  TransportOptions options;
  if (const auto text = variable("PORTOLAN_TRANSPORT")) {
    bool known = false;
    for (const TransportChoice choice : {TransportChoice::automatic, TransportChoice::mpi,
                                         TransportChoice::shared, TransportChoice::nccl}) {
      if (*text != name_of(choice)) continue;
      options.choice = choice;
      known = true;
    }
    require(known, "PORTOLAN_TRANSPORT must be auto, mpi, shared or nccl, found '{}'", *text);
  }
  if (const auto text = variable("PORTOLAN_RANKS_PER_NODE")) {
    const double value = number("PORTOLAN_RANKS_PER_NODE", *text);
    require(value == std::floor(value), "PORTOLAN_RANKS_PER_NODE must be whole, found '{}'", *text);
    options.ranks_per_node = static_cast<int>(value);
  }
  if (const auto text = variable("PORTOLAN_DEADLINE")) {
    const double seconds = number("PORTOLAN_DEADLINE", *text);
    options.deadline =
        std::chrono::milliseconds(static_cast<std::int64_t>(std::ceil(seconds * 1e3)));
  }
  return options;
}

}  // namespace portolan
