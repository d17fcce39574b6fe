// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <span>
#include <string>
#include <string_view>

#include "core/device.hpp"

namespace portolan {

/// Which transport carries the collectives. `automatic`: shared memory within a node and MPI
/// across; NCCL for tensors on GPUs where each rank has a GPU to itself. `nccl`: the same, or an
/// error.
enum class TransportChoice { automatic, mpi, shared, nccl };
/// "auto", "mpi", "shared", "nccl".
[[nodiscard]] std::string_view name_of(TransportChoice choice);

struct TransportOptions {
  TransportChoice choice = TransportChoice::automatic;
  /// Treats every so many consecutive ranks of a node as a node of their own; 0: nodes as they are.
  int ranks_per_node = 0;
  /// Longest wait for a peer inside one step of a collective.
  std::chrono::milliseconds deadline{60'000};

  /// The defaults, changed by PORTOLAN_TRANSPORT (auto, mpi, shared or nccl),
  /// PORTOLAN_RANKS_PER_NODE and PORTOLAN_DEADLINE (seconds, may have a fraction). Throws
  /// UsageError for a value that is none.
  [[nodiscard]] static TransportOptions from_environment();
};

/// What decides whether tensors on GPUs are exchanged by NCCL, or staged through host memory.
struct GpuTransport {
  TransportChoice choice = TransportChoice::automatic;
  bool nccl_is_built = false;
  DeviceKind device = DeviceKind::cpu;
  /// Of each rank, what no other GPU has; empty in a build without CUDA.
  std::span<const std::string> gpus = {};
  /// Slower links are emulated by waits of the host, which NCCL's collectives do not heed.
  bool emulates_link = false;
};

/// Throws UnsupportedError with the reason if NCCL was asked for and cannot serve. One rank needs
/// no transport.
[[nodiscard]] bool uses_nccl(const GpuTransport& transport, int ranks);

}  // namespace portolan
