// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "apps/comparison.hpp"

/// The report's tables, as HTML. Empty text where there is nothing to show.
namespace portolan {

/// Every row of a comparison; refused ones with their reason.
[[nodiscard]] std::string rows_table(const Comparison& comparison);
/// The median times of all machines beside each other.
[[nodiscard]] std::string machines_table(const std::vector<Comparison>& comparisons);
/// TP and SP as published and as measured here: times, memory, and what SP changes.
[[nodiscard]] std::string published_table(const std::vector<Comparison>& comparisons);
/// Calls and bytes of each collective, counted and by the plan, at the longest length.
[[nodiscard]] std::string counters_table(const Comparison& comparison);
/// Rows in fair and in published order.
[[nodiscard]] std::string protocol_table(const Comparison& comparison);
/// The machine, versions, command and variables.
[[nodiscard]] std::string environment_table(const Comparison& comparison);

}  // namespace portolan
