// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <string_view>

namespace portolan {

/// Which transport carries the collectives. `automatic`: shared memory within a node and MPI
/// across.
enum class TransportChoice { automatic, mpi, shared };
/// "auto", "mpi", "shared".
[[nodiscard]] std::string_view name_of(TransportChoice choice);

struct TransportOptions {
  TransportChoice choice = TransportChoice::automatic;
  /// Treats every so many consecutive ranks of a node as a node of their own; 0: nodes as they are.
  int ranks_per_node = 0;
  /// Longest wait for a peer inside one step of a collective.
  std::chrono::milliseconds deadline{60'000};

  /// The defaults, changed by PORTOLAN_TRANSPORT (auto, mpi or shared), PORTOLAN_RANKS_PER_NODE and
  /// PORTOLAN_DEADLINE (seconds, may have a fraction). Throws UsageError for a value that is none.
  [[nodiscard]] static TransportOptions from_environment();
};

}  // namespace portolan
