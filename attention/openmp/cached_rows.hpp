// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "attention/problem.hpp"

/// Problems with cached rows as problems without them. On a host, whose operations run at once, the
/// rows are known when a kernel is asked.
namespace portolan::flash {

/// Batch entries [begin, end).
struct EntryRange {
  std::int64_t begin = 0;
  std::int64_t end = 0;
};

/// Neighbouring entries that have the same rows are one problem. Those with other rows are problems
/// of their own rather than one with padding, whose keys tiles would read before hiding them; all
/// are one if there are no cached rows.
[[nodiscard]] std::vector<EntryRange> entries_of_one_problem(const AttentionProblem& problem);

/// The problem of such entries with the keys that their rows hold and no others.
[[nodiscard]] AttentionProblem without_cached_rows(const AttentionProblem& problem,
                                                   const EntryRange& entries);

}  // namespace portolan::flash
