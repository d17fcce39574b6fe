// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <exception>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "core/device.hpp"
#include "parallel/communicator.hpp"

namespace portolan {

struct RuntimeOptions {
  DeviceKind device = DeviceKind::cpu;
  /// Threads of this rank; 0: OMP_NUM_THREADS, else the cores that placement gives the rank.
  int threads = 0;
  /// Of the world's communicator and the meshes made from it.
  LinkEmulation link = {};
  /// File of tile sizes that were measured on this machine; empty: the kernels' own.
  std::string attention_tiles = {};
  /// For work that one rank does while the others wait: the deadline of every wait is at least
  /// this long.
  std::chrono::milliseconds least_deadline{0};
};

/// The one object that owns the process-wide libraries: starts MPI, places this rank on its cores,
/// starts Kokkos, registers the build's backends and attention kernels, and takes all of it down in
/// reverse. Every tensor, communicator and model must be gone before it is destroyed. One per
/// process.
class Runtime {
 public:
  /// Throws UnsupportedError if the build has no such device, and, in a build with CUDA, whatever
  /// the device, if the machine has no GPU: Kokkos with CUDA starts nowhere else.
  explicit Runtime(const RuntimeOptions& options);
  ~Runtime();
  Runtime(const Runtime&) = delete;
  Runtime& operator=(const Runtime&) = delete;

  [[nodiscard]] Communicator& world() const noexcept;
  [[nodiscard]] Device device() const noexcept;
  [[nodiscard]] int threads() const noexcept;
  /// Where this rank runs: "cores 0-3 (NUMA 0)".
  [[nodiscard]] const std::string& binding() const noexcept;
  /// Libraries, versions, transport and backend, for records.
  [[nodiscard]] nlohmann::ordered_json description() const;

  /// True if a launcher such as mpirun started this process, alone or with others.
  [[nodiscard]] bool launched() const noexcept;
  /// Prints `error` and ends every rank of the job with its exit code; to be called when this rank
  /// cannot go on and others may be waiting for it. What is wrong with options and files (exit code
  /// 2) ranks find alike: one of them says it.
  [[noreturn]] void abort_job(const std::exception& error) noexcept;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace portolan
