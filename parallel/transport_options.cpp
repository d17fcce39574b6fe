// SPDX-License-Identifier: Apache-2.0
#include "parallel/transport_options.hpp"

#include <cmath>
#include <cstdlib>
#include <optional>
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

}  // namespace

std::string_view name_of(TransportChoice choice) {
  switch (choice) {
    case TransportChoice::automatic:
      return "auto";
    case TransportChoice::mpi:
      return "mpi";
    case TransportChoice::shared:
      return "shared";
  }
  return "unknown";
}

TransportOptions TransportOptions::from_environment() {
  TransportOptions options;
  if (const auto text = variable("PORTOLAN_TRANSPORT")) {
    bool known = false;
    for (const TransportChoice choice :
         {TransportChoice::automatic, TransportChoice::mpi, TransportChoice::shared}) {
      if (*text != name_of(choice)) continue;
      options.choice = choice;
      known = true;
    }
    require(known, "PORTOLAN_TRANSPORT must be auto, mpi or shared, found '{}'", *text);
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
