// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "backends/compat/kokkos.hpp"

/// Loops that a team shares. On the host a team is one thread (kRowTeamSize), so they are plain
/// loops, which compilers see through; elsewhere neighbouring threads take neighbouring indices.
namespace portolan::portable {

template <class Space, class Team, class Body>
KOKKOS_INLINE_FUNCTION void team_for(const Team& team, std::int64_t begin, std::int64_t end,
                                     const Body& body) {
  if constexpr (compat::kRunsOnHost<Space>) {
    for (std::int64_t i = begin; i < end; ++i) body(i);
  } else {
    Kokkos::parallel_for(Kokkos::TeamThreadRange(team, begin, end), body);
  }
}

/// Joins `term(i, value)` as the Kokkos reducer says; all threads get the result. For integers,
/// whose result does not depend on the order.
template <class Space, class Reducer, class Team, class Term>
KOKKOS_INLINE_FUNCTION typename Reducer::value_type team_reduce(const Team& team,
                                                                std::int64_t begin,
                                                                std::int64_t end,
                                                                const Term& term) {
  typename Reducer::value_type result;
  const Reducer reducer(result);
  if constexpr (compat::kRunsOnHost<Space>) {
    reducer.init(result);
    typename Reducer::value_type own = result;  // with no address, so that the loop vectorises
    for (std::int64_t i = begin; i < end; ++i) term(i, own);
    result = own;
  } else {
    Kokkos::parallel_reduce(Kokkos::TeamThreadRange(team, begin, end), term, reducer);
  }
  return result;
}

/// `term(i, sum, final)` adds its own to `sum`, which, if `final`, holds what those before i added.
template <class Space, class Team, class Term>
KOKKOS_INLINE_FUNCTION void team_scan(const Team& team, std::int64_t begin, std::int64_t end,
                                      const Term& term) {
  if constexpr (compat::kRunsOnHost<Space>) {
    std::uint64_t sum = 0;
    for (std::int64_t i = begin; i < end; ++i) term(i, sum, true);
  } else {
    Kokkos::parallel_scan(Kokkos::TeamThreadRange(team, begin, end), term);
  }
}

/// Adds to what the threads of a team share.
template <class Space, class T>
KOKKOS_INLINE_FUNCTION void team_add(T& sum, T value) {
  if constexpr (compat::kRunsOnHost<Space>) {
    sum += value;
  } else {
    Kokkos::atomic_add(&sum, value);
  }
}

/// An array of a team, in its scratch memory.
template <class Space, class T>
using TeamArray =
    Kokkos::View<T*, typename Space::scratch_memory_space, Kokkos::MemoryTraits<Kokkos::Unmanaged>>;

}  // namespace portolan::portable
