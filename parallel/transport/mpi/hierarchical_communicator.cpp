// SPDX-License-Identifier: Apache-2.0
#include "parallel/transport/mpi/hierarchical_communicator.hpp"

#include <algorithm>
#include <utility>

#include "core/error.hpp"
#include "parallel/host_operations.hpp"
#include "parallel/pieces.hpp"
#include "parallel/transport/mpi/mpi_communicator.hpp"

namespace portolan {
namespace {

constexpr std::int64_t kSliceUnit = 64;

class HierarchicalCommunicator final : public Communicator {
 public:
  explicit HierarchicalCommunicator(Hierarchy hierarchy)
      : parts_(std::move(hierarchy)), messages_(make_mpi_communicator_over(parts_.group)) {
    for (std::size_t node = 0; node < parts_.nodes.size(); ++node) {
      const std::vector<int>& ranks = parts_.nodes[node];
      const auto found = std::find(ranks.begin(), ranks.end(), rank());
      if (found != ranks.end()) {
        node_index_ = static_cast<int>(node);
        local_rank_ = static_cast<int>(found - ranks.begin());
      }
      uniform_ = uniform_ && ranks.size() == parts_.nodes[0].size();
    }
  }

  [[nodiscard]] int rank() const override { return parts_.group.rank(); }
  [[nodiscard]] int size() const override { return parts_.group.size(); }
  [[nodiscard]] std::string description() const override {
    return fmt::format("{} within {} nodes, MPI across", node().description(), nodes());
  }
  [[nodiscard]] Tensor allocate(const Shape& shape, DType dtype, Device device) override {
    return node().allocate(shape, dtype, device);
  }
  [[nodiscard]] MemoryCounters memory() const override {
    MemoryCounters total;
    for (const Communicator* part : {parts_.node.get(), parts_.across.get(), messages_.get()}) {
      total += part->memory();
    }
    return total;
  }
  void reset_memory_peaks() override {
    for (Communicator* part : {parts_.node.get(), parts_.across.get(), messages_.get()}) {
      part->reset_memory_peaks();
    }
  }
  [[nodiscard]] std::unique_ptr<Communicator> split(int color, int key) override {
    return parts_.make_part(parts_.group.split(color, key));
  }
  void give_up(const std::string& reason) noexcept override {
    for (Communicator* part : {parts_.node.get(), parts_.across.get(), messages_.get()}) {
      part->give_up(reason);
    }
  }

 protected:
  void do_all_reduce(const Tensor& x) override;
  void do_all_gather(const Tensor& shard, const Tensor& full, const PartitionedLayout& layout,
                     const Partition& partition) override;
  void do_reduce_scatter(const Tensor& full, const Tensor& shard, const PartitionedLayout& layout,
                         const Partition& partition) override;
  void do_broadcast(const Tensor& x, int root) override;
  void do_barrier() override {
    node().barrier();
    if (local_rank_ == 0) across().barrier();
    node().barrier();
  }
  std::unique_ptr<RingRotation> do_rotate(const Tensor& own) override {
    return messages_->rotate(own);
  }

 private:
  [[nodiscard]] Communicator& node() const noexcept { return *parts_.node; }
  [[nodiscard]] Communicator& across() const noexcept { return *parts_.across; }
  [[nodiscard]] int nodes() const noexcept { return static_cast<int>(parts_.nodes.size()); }
  [[nodiscard]] int rank_at(int node, int local) const {
    return parts_.nodes[static_cast<std::size_t>(node)][static_cast<std::size_t>(local)];
  }
  [[nodiscard]] int local_size(int node) const {
    return static_cast<int>(parts_.nodes[static_cast<std::size_t>(node)].size());
  }

  /// The ranks in the order in which their parts are laid out one after the other while they
  /// travel, and how many elements each has: by place on the node, then node, if nodes are of one
  /// size (so that what one rank carries across is contiguous), else node by node.
  struct Order {
    std::vector<int> ranks;
    Partition elements;  ///< in that order
  };
  [[nodiscard]] Order order_of(const PartitionedLayout& layout, const Partition& partition,
                               DType dtype) const;
  /// Sums of `order.elements` over consecutive groups of ranks; `sizes` are the groups' sizes.
  [[nodiscard]] static Partition grouped(const Order& order, const std::vector<int>& sizes);
  [[nodiscard]] std::vector<int> node_sizes() const;

  Hierarchy parts_;
  std::unique_ptr<Communicator> messages_;
  int node_index_ = 0;
  int local_rank_ = 0;
  bool uniform_ = true;
};

std::vector<int> HierarchicalCommunicator::node_sizes() const {
  std::vector<int> sizes;
  for (int node = 0; node < nodes(); ++node) sizes.push_back(local_size(node));
  return sizes;
}

HierarchicalCommunicator::Order HierarchicalCommunicator::order_of(const PartitionedLayout& layout,
                                                                   const Partition& partition,
                                                                   DType dtype) const {
  Order order;
  if (uniform_) {
    for (int local = 0; local < local_size(0); ++local) {
      for (int node = 0; node < nodes(); ++node) order.ranks.push_back(rank_at(node, local));
    }
  } else {
    for (const std::vector<int>& ranks : parts_.nodes) {
      order.ranks.insert(order.ranks.end(), ranks.begin(), ranks.end());
    }
  }
  std::vector<std::int64_t> elements;
  for (const int part : order.ranks) {
    elements.push_back(part_bytes(layout, partition, part) /
                       static_cast<std::int64_t>(size_of(dtype)));
  }
  order.elements = Partition(elements);
  return order;
}

Partition HierarchicalCommunicator::grouped(const Order& order, const std::vector<int>& sizes) {
  std::vector<std::int64_t> elements;
  int part = 0;
  for (const int size : sizes) {
    elements.push_back(order.elements.offset(part + size) - order.elements.offset(part));
    part += size;
  }
  return Partition(elements);
}

void HierarchicalCommunicator::do_all_reduce(const Tensor& x) {
  const Tensor flat = x.view({x.elements()});
  if (!uniform_) {
    node().all_reduce(flat);
    if (local_rank_ == 0) across().all_reduce(flat);
    return node().broadcast(flat, 0);
  }
  const Partition slices = Partition::even(flat.elements(), node().size(), kSliceUnit);
  const Tensor slice = allocate({slices.share(local_rank_)}, x.dtype(), x.device());
  node().reduce_scatter(flat, slice, 0, slices);
  across().all_reduce(slice);
  node().all_gather(slice, flat, 0, slices);
}

void HierarchicalCommunicator::do_reduce_scatter(const Tensor& full, const Tensor& shard,
                                                 const PartitionedLayout& layout,
                                                 const Partition& partition) {
  const auto element = static_cast<std::int64_t>(size_of(full.dtype()));
  const Order order = order_of(layout, partition, full.dtype());
  const Tensor ordered = allocate({full.elements()}, full.dtype(), full.device());
  for (int i = 0; i < size(); ++i) {
    const int part = order.ranks[static_cast<std::size_t>(i)];
    std::byte* to = ordered.raw() + order.elements.offset(i) * element;
    for_each_piece(layout, partition, part, 0, part_bytes(layout, partition, part),
                   [&](std::int64_t in_full, std::int64_t in_part, std::int64_t bytes) {
                     copy_dense(to + in_part, full.raw() + in_full, bytes, full.dtype(),
                                full.device());
                   });
  }
  const Tensor own = shard.view({shard.elements()});
  if (!uniform_) {
    node().all_reduce(ordered);
    if (local_rank_ == 0) across().all_reduce(ordered);
    node().broadcast(ordered, 0);
    const auto place = std::find(order.ranks.begin(), order.ranks.end(), rank());
    const std::int64_t offset =
        order.elements.offset(static_cast<int>(place - order.ranks.begin())) * element;
    return copy_dense(own.raw(), ordered.raw() + offset, static_cast<std::int64_t>(own.bytes()),
                      full.dtype(), full.device());
  }
  const Partition by_local =
      grouped(order, std::vector<int>(static_cast<std::size_t>(node().size()), nodes()));
  const Tensor carried = allocate({by_local.share(local_rank_)}, full.dtype(), full.device());
  node().reduce_scatter(ordered, carried, 0, by_local);
  std::vector<std::int64_t> shares;
  for (int node = 0; node < nodes(); ++node) {
    shares.push_back(order.elements.share(local_rank_ * nodes() + node));
  }
  across().reduce_scatter(carried, own, 0, Partition(shares));
}

void HierarchicalCommunicator::do_all_gather(const Tensor& shard, const Tensor& full,
                                             const PartitionedLayout& layout,
                                             const Partition& partition) {
  const auto element = static_cast<std::int64_t>(size_of(full.dtype()));
  const Order order = order_of(layout, partition, full.dtype());
  const Tensor ordered = allocate({full.elements()}, full.dtype(), full.device());
  const Tensor own = shard.view({shard.elements()});
  if (uniform_) {
    const Partition by_local =
        grouped(order, std::vector<int>(static_cast<std::size_t>(node().size()), nodes()));
    const Tensor carried = allocate({by_local.share(local_rank_)}, full.dtype(), full.device());
    std::vector<std::int64_t> shares;
    for (int node = 0; node < nodes(); ++node) {
      shares.push_back(order.elements.share(local_rank_ * nodes() + node));
    }
    across().all_gather(own, carried, 0, Partition(shares));
    node().all_gather(carried, ordered, 0, by_local);
  } else {
    const Partition by_node = grouped(order, node_sizes());
    const Tensor node_part = ordered.slice(
        0, by_node.offset(node_index_), by_node.offset(node_index_) + by_node.share(node_index_));
    std::vector<std::int64_t> shares;
    for (const int part : parts_.nodes[static_cast<std::size_t>(node_index_)]) {
      shares.push_back(part_bytes(layout, partition, part) / element);
    }
    node().all_gather(own, node_part, 0, Partition(shares));
    if (local_rank_ == 0) across().all_gather(node_part, ordered, 0, by_node);
    node().broadcast(ordered, 0);
  }
  for (int i = 0; i < size(); ++i) {
    const int part = order.ranks[static_cast<std::size_t>(i)];
    const std::byte* from = ordered.raw() + order.elements.offset(i) * element;
    for_each_piece(layout, partition, part, 0, part_bytes(layout, partition, part),
                   [&](std::int64_t in_full, std::int64_t in_part, std::int64_t bytes) {
                     copy_dense(full.raw() + in_full, from + in_part, bytes, full.dtype(),
                                full.device());
                   });
  }
}

void HierarchicalCommunicator::do_broadcast(const Tensor& x, int root) {
  int root_node = 0;
  int root_local = 0;
  for (int node = 0; node < nodes(); ++node) {
    for (int local = 0; local < local_size(node); ++local) {
      if (rank_at(node, local) != root) continue;
      root_node = node;
      root_local = local;
    }
  }
  if (node_index_ == root_node) node().broadcast(x, root_local);
  if (local_rank_ == 0) across().broadcast(x, root_node);
  if (node_index_ != root_node) node().broadcast(x, 0);
}

}  // namespace

std::unique_ptr<Communicator> make_hierarchical_communicator(Hierarchy hierarchy) {
  return std::make_unique<HierarchicalCommunicator>(std::move(hierarchy));
}

}  // namespace portolan
