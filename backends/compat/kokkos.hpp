// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <Kokkos_Core.hpp>
#if KOKKOS_VERSION < 30700
#include <Kokkos_MathematicalFunctions.hpp>
#endif

#include <cstdint>

/// What differs between Kokkos 3.4.1 and 5.x, under one name.
namespace portolan::compat {

#if KOKKOS_VERSION < 30700
using Kokkos::Experimental::erfc;
using Kokkos::Experimental::exp;
using Kokkos::Experimental::log;
using Kokkos::Experimental::sqrt;
#else
using Kokkos::erfc;
using Kokkos::exp;
using Kokkos::log;
using Kokkos::sqrt;
#endif

/// True where kernels of the execution space run on host threads, one row to a thread.
template <class Space>
inline constexpr bool kRunsOnHost =
    Kokkos::SpaceAccessibility<Space, Kokkos::HostSpace>::accessible;

template <class Space>
using Range = Kokkos::RangePolicy<Space, Kokkos::IndexType<std::int64_t>>;

}  // namespace portolan::compat
