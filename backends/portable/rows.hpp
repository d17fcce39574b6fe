// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>

#include "backends/compat/kokkos.hpp"
#include "backends/portable/strided_rows.hpp"
#include "core/error.hpp"

namespace portolan::portable {

/// Columns that a host thread takes at a time; elsewhere each thread takes one.
template <class Space>
inline constexpr std::int64_t kColumnBlock = compat::kRunsOnHost<Space> ? 16384 : 1;

/// Runs `body(row, begin, end)` so that each column of each row is covered once: stretches of rows
/// on host threads, where the inner loop vectorises, one element per thread elsewhere.
template <class Space, class Body>
struct RowsKernel {
  Body body;
  std::int64_t columns = 0;
  std::int64_t blocks = 0;  // per row

  KOKKOS_INLINE_FUNCTION void operator()(std::int64_t index) const {
    const std::int64_t row = index / blocks;
    const std::int64_t begin = (index - row * blocks) * kColumnBlock<Space>;
    const std::int64_t end = begin + kColumnBlock<Space>;
    body(row, begin, end < columns ? end : columns);
  }
};

template <class Space, class Body>
void for_rows(const Space& space, const char* label, std::int64_t rows, std::int64_t columns,
              const Body& body) {
  if (rows == 0 || columns == 0) return;
  const std::int64_t blocks = (columns + kColumnBlock<Space> - 1) / kColumnBlock<Space>;
  Kokkos::parallel_for(label, compat::Range<Space>(space, 0, rows * blocks),
                       RowsKernel<Space, Body>{body, columns, blocks});
}

/// Threads of a team that shares one row. One on the host, where rows are the parallelism.
template <class Space>
inline constexpr int kRowTeamSize = compat::kRunsOnHost<Space> ? 1 : 256;

template <class Space>
using RowTeams = Kokkos::TeamPolicy<Space, Kokkos::IndexType<std::int64_t>>;

/// One team per row; `body(team)` finds its row as team.league_rank(), and has `scratch_bytes` of
/// memory of its own as team.team_scratch(0).
template <class Space, class Body>
void for_row_teams(const Space& space, const char* label, std::int64_t rows, const Body& body,
                   std::size_t scratch_bytes = 0) {
  if (rows == 0) return;
  require(rows <= std::numeric_limits<int>::max(), "{}: {} rows are more than a launch can count",
          label, rows);
  RowTeams<Space> policy(space, static_cast<int>(rows), kRowTeamSize<Space>);
  if (scratch_bytes > 0) {
    policy.set_scratch_size(0, Kokkos::PerTeam(static_cast<int>(scratch_bytes)));
  }
  Kokkos::parallel_for(label, policy, body);
}

/// Number of partial sums that a row's sum is made of, whatever the number of threads.
inline constexpr int kRowPartials = 256;

/// Sum of term(column) over a row, in Sum: always the same kRowPartials partial sums, added in a
/// fixed order, so that neither thread count nor row count changes its bits. Many short sums also
/// keep the rounding error near that of a pairwise sum.
template <class Space, class Sum = float, class Team, class Term>
KOKKOS_INLINE_FUNCTION Sum row_sum(const Team& team, std::int64_t columns, const Term& term) {
  Sum total{};
  const std::int64_t block = (columns + kRowPartials - 1) / kRowPartials;
  Kokkos::parallel_reduce(
      // A value: what is taken by reference would have to exist on a GPU.
      Kokkos::TeamVectorRange(team, int{kRowPartials}),
      [&](const int partial, Sum& sum) {
        Sum own{};
        if constexpr (compat::kRunsOnHost<Space>) {
          const std::int64_t begin = partial * block;
          const std::int64_t end = begin + block < columns ? begin + block : columns;
          for (std::int64_t column = begin; column < end; ++column) own += term(column);
        } else {
          // Neighbouring threads read neighbouring elements.
          for (std::int64_t column = partial; column < columns; column += kRowPartials) {
            own += term(column);
          }
        }
        sum += own;
      },
      total);
  return total;
}

/// Largest term(column) of a row, NaN passed over; -infinity if there is none. Compared in f64,
/// because the reduction starts from the lowest finite number of its type.
template <class Team, class Term>
KOKKOS_INLINE_FUNCTION float row_maximum(const Team& team, std::int64_t columns, const Term& term) {
  double result = 0.0;
  Kokkos::parallel_reduce(
      Kokkos::TeamVectorRange(team, columns),
      [&](const std::int64_t column, double& largest) {
        const auto value = static_cast<double>(term(column));
        if (largest < value) largest = value;
      },
      Kokkos::Max<double>(result));
  return result < -static_cast<double>(std::numeric_limits<float>::max())
             ? -HUGE_VALF
             : static_cast<float>(result);
}

}  // namespace portolan::portable
