// SPDX-License-Identifier: Apache-2.0
#include "models/forward_options.hpp"

#include <array>

#include "core/error.hpp"

namespace portolan {
namespace {

constexpr std::array kRecomputations{Recomputation::none, Recomputation::selective,
                                     Recomputation::full};

}  // namespace

std::string_view name_of(Recomputation recomputation) {
  switch (recomputation) {
    case Recomputation::none:
      return "none";
    case Recomputation::selective:
      return "selective";
    case Recomputation::full:
      return "full";
  }
  return "";
}

Recomputation recomputation_from_name(std::string_view name) {
  for (const Recomputation recomputation : kRecomputations) {
    if (name_of(recomputation) == name) return recomputation;
  }
  throw UsageError(
      fmt::format("unknown recomputation '{}'; known are none, selective, full", name));
}

}  // namespace portolan
