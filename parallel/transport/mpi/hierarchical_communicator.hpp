// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "parallel/communicator.hpp"
#include "parallel/transport/mpi/mpi_group.hpp"

namespace portolan {

/// What a hierarchical communicator is made of.
struct Hierarchy {
  MpiGroup group;
  /// The group's ranks, node by node, each in the order of the node's communicator.
  std::vector<std::vector<int>> nodes;
  /// The ranks of this node.
  std::unique_ptr<Communicator> node;
  /// One rank of each node, in the order of the nodes: those with this rank's place on their node.
  /// Where nodes differ in size it is used by the first rank of each only.
  std::unique_ptr<Communicator> across;
  /// Makes the communicator of a part of the group.
  std::function<std::unique_ptr<Communicator>(const MpiGroup&)> make_part;
};

/// Collectives within nodes, then across. Where all nodes have the same number of ranks, each rank
/// carries its share over the network (reduce-scatter in the node, all-reduce across, all-gather in
/// the node); else the first rank of each node carries all.
///
/// Sums run over the ranks of a node in rank order, rounded to the tensor's dtype, then over the
/// nodes in order: the same on every rank. Rotations go from rank to rank by messages, in the
/// group's order.
[[nodiscard]] std::unique_ptr<Communicator> make_hierarchical_communicator(Hierarchy hierarchy);

}  // namespace portolan
