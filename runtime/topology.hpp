// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <vector>

struct hwloc_topology;

namespace portolan {

struct DestroyHwlocTopology {
  void operator()(hwloc_topology* topology) const noexcept;
};
using HwlocHandle = std::unique_ptr<hwloc_topology, DestroyHwlocTopology>;

/// One of hwloc's topologies, to be set up and loaded. Throws Error.
[[nodiscard]] HwlocHandle new_hwloc_topology();
/// Loads what it was set up for, this machine by default, or the one saved in `xml`, if given.
/// Throws InputError for a file that lstopo did not save, else Error.
void load_hwloc_topology(hwloc_topology* topology,
                         const std::optional<std::filesystem::path>& xml = {});

/// A physical core. Numbers of processing units, packages and NUMA nodes are the operating
/// system's, as taskset, numactl and /proc show them.
struct Core {
  int package = 0;
  /// Position in Topology::numa_domains().
  int numa_domain = 0;
  /// The hardware threads that may be used, ascending: several with SMT; never empty.
  std::vector<int> processing_units;
};

/// Cores with the same nearest memory: a socket, or a part of one under sub-NUMA clustering.
struct NumaDomain {
  int package = 0;
  /// Several where two kinds of memory are equally near (HBM beside DDR). Empty if this process may
  /// use no memory there.
  std::vector<int> nodes;
  std::int64_t memory_bytes = 0;
  /// Its cores are [first_core, first_core + cores) of Topology::cores(); at least one.
  int first_core = 0;
  int cores = 0;
};

/// The processors and memory that this process may use, neighbours in hardware side by side.
/// Immutable, cheap to move.
class Topology {
 public:
  /// This machine, less what control groups, cpusets and the affinity mask (taskset, srun, mpirun
  /// --bind-to) keep from this process. There is one exception: where Open MPI's mpirun has bound
  /// the rank by its own default, which with two ranks is one core each, mpirun's mask counts
  /// besides the rank's. To be called before threads are bound, by the main thread.
  ///
  /// `mask`, as "0-3,8", stands for the affinity mask where that has already been narrowed (see
  /// openmp_places); empty: the calling thread's. Throws Error if the machine cannot be examined.
  [[nodiscard]] static Topology detect(const std::string& mask = {});

  /// A made-up machine in hwloc's notation, "package:2 [numa] core:4 pu:2". Throws UsageError.
  [[nodiscard]] static Topology synthetic(const std::string& description);

  /// A machine saved by `lstopo FILE.xml`. Throws InputError.
  [[nodiscard]] static Topology from_xml(const std::filesystem::path& path);

  Topology(Topology&&) noexcept = default;
  Topology& operator=(Topology&&) noexcept = default;
  ~Topology() = default;

  /// Only the listed processing units of this topology, "0-3,8". Throws UsageError if the list
  /// cannot be read or leaves nothing.
  [[nodiscard]] Topology restricted_to(const std::string& processing_units) const;

  /// Domain after domain.
  [[nodiscard]] const std::vector<Core>& cores() const noexcept { return cores_; }
  [[nodiscard]] const std::vector<NumaDomain>& numa_domains() const noexcept { return domains_; }
  [[nodiscard]] int packages() const noexcept { return packages_; }
  [[nodiscard]] int processing_units() const noexcept;
  /// The most usable hardware threads that a core has: 1 without SMT.
  [[nodiscard]] int threads_per_core() const noexcept;
  /// Memory of the nodes that this process may use.
  [[nodiscard]] std::int64_t memory_bytes() const noexcept { return memory_bytes_; }
  /// Cores of the whole machine, those included that this process may not use.
  [[nodiscard]] int machine_cores() const noexcept { return machine_cores_; }
  /// Usable processing units, "0-3,8": the same text for two processes means the same mask.
  [[nodiscard]] const std::string& mask() const noexcept { return mask_; }
  /// Whether this describes the machine it runs on.
  [[nodiscard]] bool is_this_machine() const noexcept;

  /// One line: "2 packages, 2 NUMA domains, 80 cores, 160 processing units, 540.1 GB".
  [[nodiscard]] std::string summary() const;
  /// Everything above, for records.
  [[nodiscard]] nlohmann::ordered_json to_json() const;

  /// For calls of hwloc; owned by the topology.
  [[nodiscard]] hwloc_topology* handle() const noexcept { return handle_.get(); }

 private:
  Topology(HwlocHandle handle, int machine_cores);
  static Topology whole(HwlocHandle handle);

  HwlocHandle handle_;
  std::vector<Core> cores_;
  std::vector<NumaDomain> domains_;
  int packages_ = 0;
  int machine_cores_ = 0;
  std::int64_t memory_bytes_ = 0;
  std::string mask_;
};

/// Ascending, without repetition, ranges joined: {0, 1, 2, 3, 8} as "0-3,8".
[[nodiscard]] std::string index_list(std::span<const int> indices);

}  // namespace portolan
