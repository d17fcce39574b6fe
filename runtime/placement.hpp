// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "runtime/topology.hpp"

/// Which cores each rank of a node computes on. Deciding is pure (plan_*); binding is separate:
///
///   const Topology topology = Topology::detect(openmp_places());
///   const MaskGroup group = mask_group(masks_of_the_nodes_ranks, local_rank);
///   const Placement placement = plan_placement(topology, group.rank, group.ranks, threads);
///   apply_placement(topology, placement);  // before the first OpenMP region
///   bind_threads(topology, placement, [&](const std::function<void(int)>& body) {
///     run_on_openmp_team(placement.threads, body);
///   });
namespace portolan {

/// How many of the node's threads a core has to carry.
enum class CoreSharing {
  none,           ///< at most one
  smt_siblings,   ///< more than one, each on a hardware thread of its own
  oversubscribed  ///< more than it has hardware threads: they take turns
};

struct PlacementPolicy {
  /// Cores that each rank leaves without a thread, when it chooses its number of threads and has
  /// more than one core: for progress threads of MPI or the system's own work.
  int spare_cores = 0;
  /// Upper bound of the chosen number of threads, 0 for none: the share of a CPU quota.
  int max_threads = 0;
  /// One thread per core and no migration; otherwise threads float over the rank's cores.
  bool pin_threads = true;
  /// Prefer the rank's own NUMA nodes for all its memory, whatever policy it inherited. Without it,
  /// pages lie where they are first touched.
  bool bind_memory = false;
};

/// What one rank gets.
struct Placement {
  int threads = 0;
  /// The rank's share: positions in Topology::cores(), ascending.
  std::vector<int> cores;
  /// The processing unit of each thread, by the operating system's number.
  std::vector<int> thread_units;
  /// NUMA nodes nearest to the threads, by the operating system's number, ascending.
  std::vector<int> numa_nodes;
  /// Of the whole node, so the same for all its ranks; anything but `none` means that ranks x
  /// threads exceeds the cores.
  CoreSharing sharing = CoreSharing::none;
  /// A sentence for the user where cores are shared; else empty.
  std::string warning;
  /// Off where a core is oversubscribed: the system then balances better than a fixed order.
  bool pin_threads = true;
  bool bind_memory = false;
};

/// Places `local_ranks` ranks, in order, on the cores of a topology that all of them may use.
///
/// A rank stays within one NUMA domain, or has several whole ones: with as many ranks as domains
/// each has its own; more ranks than domains divide each domain's cores contiguously and as evenly
/// as possible, so that the rank with the fewest cores has as many as possible (a domain with less
/// than half the cores of another may so be left without a rank); fewer ranks than domains take
/// contiguous groups of domains. Only where the given number of threads fits the cores in no such
/// way but does fit when cores are dealt evenly regardless of domains does a rank cross a border.
/// Threads go to one processing unit per core first, and to SMT siblings only when cores run out.
///
/// `threads` is the number per rank; 0 chooses one thread per core of the rank's share, less what
/// the policy withholds, so that ranks may have different numbers. Throws UsageError for fewer than
/// one rank or negative numbers.
[[nodiscard]] std::vector<Placement> plan_node(const Topology& topology, int local_ranks,
                                               int threads = 0, const PlacementPolicy& policy = {});

/// The placement of one of those ranks. Throws UsageError also for a rank out of range.
[[nodiscard]] Placement plan_placement(const Topology& topology, int local_rank, int local_ranks,
                                       int threads = 0, const PlacementPolicy& policy = {});

/// The ranks of a node that have the same affinity mask and therefore divide it among themselves.
/// Where a launcher gave each rank its own mask (mpirun --bind-to core, srun --cpu-bind), each is
/// alone in its group and just uses its mask.
struct MaskGroup {
  int rank = 0;
  int ranks = 1;
  /// Another rank's mask is different but not disjoint: placements may collide.
  bool overlaps_others = false;
};

/// `masks` are Topology::mask() of all ranks of the node, in order. Throws UsageError for a rank
/// out of range or a text that is no mask.
[[nodiscard]] MaskGroup mask_group(std::span<const std::string> masks, int local_rank);

/// Confines the process, all its present threads and those to come to the cores of the placement,
/// and applies its memory policy to the calling thread. To be called by the main thread before
/// OpenMP starts its threads. Where the system does not permit it: a warning in the log, and false.
/// Throws UsageError if the topology is not this machine's.
bool apply_placement(const Topology& topology, const Placement& placement);

/// Runs its argument once on each thread of a team, with the thread's index.
using TeamRunner = std::function<void(const std::function<void(int)>&)>;

/// Pins thread i of the team to placement.thread_units[i] and applies the memory policy to each, if
/// the placement pins threads. Returns how many threads were pinned; a team of another size than
/// placement.threads, or a refusal of the system, gives one warning in the log. Throws UsageError
/// if the topology is not this machine's.
int bind_threads(const Topology& topology, const Placement& placement, const TeamRunner& team);

/// "cores 0-3 (NUMA 0)": the cores in use, each by its first processing unit.
[[nodiscard]] std::string binding_string(const Topology& topology, const Placement& placement);

/// The processing units that the system lets the calling thread run on now, "0-3", to prove a
/// binding; empty if it does not tell.
[[nodiscard]] std::string thread_mask(const Topology& topology);

}  // namespace portolan
