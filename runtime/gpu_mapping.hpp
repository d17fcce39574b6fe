// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <vector>

/// Which GPU each rank of a node computes on. A copy between a GPU and memory of the other socket
/// takes the link between the sockets as well.
namespace portolan {

/// Of PCI devices, named by their bus as "0000:3b:00.0", the NUMA node that each is attached to, by
/// the operating system's number; -1 where that is not known. Of this machine, or of one saved by
/// `lstopo FILE.xml`, if given. Throws InputError for another file.
[[nodiscard]] std::vector<int> numa_nodes_of_pci_devices(
    std::span<const std::string> bus_ids, const std::optional<std::filesystem::path>& xml = {});

/// The GPU of each rank of a node, given the NUMA node that is nearest to the rank's cores, and the
/// one that each GPU is attached to (negative: not known). GPUs get equally many ranks, give or
/// take one: first, in their order, ranks for which there is room on their own node, then the
/// others. Throws UsageError if there is no GPU.
[[nodiscard]] std::vector<int> deal_gpus(std::span<const int> rank_nodes,
                                         std::span<const int> gpu_nodes);

}  // namespace portolan
