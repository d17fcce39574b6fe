// SPDX-License-Identifier: Apache-2.0
#include "runtime/gpu_mapping.hpp"

#include "core/error.hpp"
#include "runtime/bitmap.hpp"
#include "runtime/topology.hpp"

namespace portolan {
namespace {

/// With its PCI devices, which the topology that places threads does without: looking for them
/// takes longer than everything else.
HwlocHandle machine_with_devices(const std::optional<std::filesystem::path>& xml) {
  HwlocHandle topology = new_hwloc_topology();
  hwloc_topology_set_flags(topology.get(), HWLOC_TOPOLOGY_FLAG_INCLUDE_DISALLOWED);
  hwloc_topology_set_io_types_filter(topology.get(), HWLOC_TYPE_FILTER_KEEP_ALL);
  load_hwloc_topology(topology.get(), xml);
  return topology;
}

int numa_node_of(hwloc_topology_t topology, const std::string& bus_id) {
  const hwloc_obj_t device = hwloc_get_pcidev_by_busidstring(topology, bus_id.c_str());
  if (device == nullptr) return -1;
  const hwloc_obj_t place = hwloc_get_non_io_ancestor_obj(topology, device);
  if (place == nullptr || hwloc_bitmap_weight(place->nodeset) != 1) return -1;
  return hwloc_bitmap_first(place->nodeset);
}

/// GPUs that have equally many ranks in the end, or one more where they do not divide evenly.
class Dealer {
 public:
  Dealer(std::size_t ranks, std::span<const int> gpu_nodes)
      : gpu_nodes_(gpu_nodes),
        ranks_(gpu_nodes.size(), 0),
        share_(ranks / gpu_nodes.size()),
        larger_shares_(ranks % gpu_nodes.size()) {}

  /// One more rank for the GPU with the fewest, the first of equals, among those attached to
  /// `node`, or, with a negative one, among all; -1 if these have what is theirs.
  int deal(int node) {
    std::size_t best = ranks_.size();
    for (std::size_t gpu = 0; gpu < ranks_.size(); ++gpu) {
      const bool eligible = (node < 0 || gpu_nodes_[gpu] == node) && has_room(gpu);
      if (eligible && (best == ranks_.size() || ranks_[gpu] < ranks_[best])) best = gpu;
    }
    if (best == ranks_.size()) return -1;
    if (ranks_[best] == share_) --larger_shares_;
    ++ranks_[best];
    return static_cast<int>(best);
  }

 private:
  [[nodiscard]] bool has_room(std::size_t gpu) const {
    return ranks_[gpu] < share_ || (ranks_[gpu] == share_ && larger_shares_ > 0);
  }

  std::span<const int> gpu_nodes_;
  std::vector<std::size_t> ranks_;  ///< of each GPU
  std::size_t share_;
  std::size_t larger_shares_;  ///< that may still have one more
};

}  // namespace

std::vector<int> numa_nodes_of_pci_devices(std::span<const std::string> bus_ids,
                                           const std::optional<std::filesystem::path>& xml) {
  const HwlocHandle topology = machine_with_devices(xml);
  std::vector<int> nodes;
  for (const std::string& bus_id : bus_ids) nodes.push_back(numa_node_of(topology.get(), bus_id));
  return nodes;
}

std::vector<int> deal_gpus(std::span<const int> rank_nodes, std::span<const int> gpu_nodes) {
  require(!gpu_nodes.empty(), "there is no GPU to be dealt to {} ranks", rank_nodes.size());
  std::vector<int> gpus(rank_nodes.size(), -1);
  Dealer dealer(gpus.size(), gpu_nodes);
  for (std::size_t rank = 0; rank < gpus.size(); ++rank) {
    if (rank_nodes[rank] >= 0) gpus[rank] = dealer.deal(rank_nodes[rank]);
  }
  for (int& gpu : gpus) {
    if (gpu < 0) gpu = dealer.deal(-1);
  }
  return gpus;
}

}  // namespace portolan
