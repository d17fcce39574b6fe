// SPDX-License-Identifier: Apache-2.0
#include <hwloc.h>

#include <atomic>
#include <cerrno>
#include <cstring>

#include "core/error.hpp"
#include "core/log.hpp"
#include "runtime/bitmap.hpp"
#include "runtime/placement.hpp"

namespace portolan {

namespace {

void require_this_machine(const Topology& topology) {
  require(topology.is_this_machine(), "threads can be bound only with this machine's topology");
}

Bitmap units_of_cores(const Topology& topology, const std::vector<int>& cores) {
  Bitmap units(hwloc_bitmap_alloc());
  for (const int core : cores) {
    for (const int unit : topology.cores()[static_cast<std::size_t>(core)].processing_units) {
      hwloc_bitmap_set(units.get(), static_cast<unsigned>(unit));
    }
  }
  return units;
}

/// Memory policy of a thread, made beforehand: nothing may throw inside a parallel region.
class MemoryBinding {
 public:
  explicit MemoryBinding(const Placement& placement)
      : nodes_(hwloc_bitmap_alloc()),
        wanted_(placement.bind_memory && !placement.numa_nodes.empty()) {
    for (const int node : placement.numa_nodes) {
      hwloc_bitmap_set(nodes_.get(), static_cast<unsigned>(node));
    }
  }

  /// Applies it to the calling thread; false if the system refuses.
  [[nodiscard]] bool apply(const Topology& topology) const noexcept {
    return !wanted_ || hwloc_set_membind(topology.handle(), nodes_.get(), HWLOC_MEMBIND_BIND,
                                         HWLOC_MEMBIND_THREAD | HWLOC_MEMBIND_BYNODESET) == 0;
  }

 private:
  Bitmap nodes_;
  bool wanted_;
};

}  // namespace

bool apply_placement(const Topology& topology, const Placement& placement) {
  require_this_machine(topology);
  const Bitmap units = units_of_cores(topology, placement.cores);
  if (hwloc_set_cpubind(topology.handle(), units.get(), HWLOC_CPUBIND_PROCESS) != 0) {
    log().warn("the system refused to bind this process to processing units {}: {}",
               Bitmap::list_of(units.get()), std::strerror(errno));
    return false;
  }
  if (!MemoryBinding(placement).apply(topology)) {
    log().warn("the system refused to bind memory to NUMA nodes {}: {}",
               index_list(placement.numa_nodes), std::strerror(errno));
    return false;
  }
  return true;
}

int bind_threads(const Topology& topology, const Placement& placement, const TeamRunner& team) {
  require_this_machine(topology);
  if (!placement.pin_threads) return 0;
  const MemoryBinding memory(placement);
  std::vector<Bitmap> units;
  for (const int unit : placement.thread_units) {
    units.emplace_back(hwloc_bitmap_alloc());
    hwloc_bitmap_set(units.back().get(), static_cast<unsigned>(unit));
  }
  std::atomic<int> team_size = 0;
  std::atomic<int> pinned = 0;
  team([&](int thread) {
    ++team_size;
    if (thread < 0 || static_cast<std::size_t>(thread) >= units.size()) return;
    hwloc_bitmap_t unit = units[static_cast<std::size_t>(thread)].get();
    if (hwloc_set_cpubind(topology.handle(), unit, HWLOC_CPUBIND_THREAD) == 0) ++pinned;
    // A refusal has been reported by apply_placement, and nothing depends on it.
    (void)memory.apply(topology);
  });
  if (team_size != placement.threads || pinned != placement.threads) {
    log().warn("{} threads were planned, {} ran and {} could be bound to their cores",
               placement.threads, team_size.load(), pinned.load());
  }
  return pinned;
}

std::string thread_mask(const Topology& topology) {
  const Bitmap mask(hwloc_bitmap_alloc());
  if (hwloc_get_cpubind(topology.handle(), mask.get(), HWLOC_CPUBIND_THREAD) != 0) return {};
  return Bitmap::list_of(mask.get());
}

}  // namespace portolan
