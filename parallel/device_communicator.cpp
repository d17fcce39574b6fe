// SPDX-License-Identifier: Apache-2.0
#include "parallel/device_communicator.hpp"

#include <utility>

#include "core/ops.hpp"

namespace portolan {
namespace {

/// Rows of a strided collective up to which each row is one of the library's own: their cost is one
/// start each, that of staging a pass over memory.
constexpr std::int64_t kMostRows = 16;

bool is_even(const Partition& partition) {
  return partition.largest_share() * partition.parts() == partition.extent();
}

/// What PartitionedLayout counts in bytes, in elements.
std::int64_t inner_elements(const Tensor& tensor, const PartitionedLayout& layout) {
  return layout.inner_bytes / static_cast<std::int64_t>(size_of(tensor.dtype()));
}

/// The ranks' parts of a partitioned tensor, each dense, in memory for blocks of one size.
class EqualBlocks {
 public:
  EqualBlocks(const Tensor& full, const PartitionedLayout& layout, const Partition& partition)
      : layout_(layout),
        partition_(partition),
        inner_(inner_elements(full, layout)),
        parts_(full.view({layout.outer, partition.extent(), inner_})),
        block_(layout.outer * partition.largest_share() * inner_),
        blocks_(Tensor::empty({1, partition.parts(), block_}, full.dtype(), full.device())) {}

  /// [1, ranks, block].
  [[nodiscard]] const Tensor& all() const noexcept { return blocks_; }
  /// [1, block].
  [[nodiscard]] Tensor block(int rank) const {
    return blocks_.slice(1, rank, rank + 1).view({1, block_});
  }
  /// The elements of the block that are a part: [outer, share, inner].
  [[nodiscard]] Tensor part(int rank) const {
    const std::int64_t share = partition_.share(rank);
    return block(rank)
        .slice(1, 0, layout_.outer * share * inner_)
        .view({layout_.outer, share, inner_});
  }
  /// Where the part lies in the full tensor.
  [[nodiscard]] Tensor place(int rank) const {
    return parts_.slice(1, partition_.offset(rank),
                        partition_.offset(rank) + partition_.share(rank));
  }

 private:
  const PartitionedLayout& layout_;
  const Partition& partition_;
  std::int64_t inner_;
  Tensor parts_;
  std::int64_t block_;
  Tensor blocks_;
};

class DeviceCommunicator final : public Communicator {
 public:
  DeviceCommunicator(std::unique_ptr<Communicator> host,
                     std::unique_ptr<DeviceCollectives> collectives, Device device)
      : host_(std::move(host)), collectives_(std::move(collectives)), device_(device) {}

  [[nodiscard]] int rank() const override { return host_->rank(); }
  [[nodiscard]] int size() const override { return host_->size(); }
  [[nodiscard]] std::string description() const override {
    return collectives_->description() + "; for the host " + host_->description();
  }
  [[nodiscard]] Tensor allocate(const Shape& shape, DType dtype, Device device) override {
    return device == device_ ? allocate_private(shape, dtype, device)
                             : host_->allocate(shape, dtype, device);
  }
  [[nodiscard]] MemoryCounters memory() const override { return host_->memory(); }
  void reset_memory_peaks() override { host_->reset_memory_peaks(); }
  [[nodiscard]] std::unique_ptr<Communicator> split(int color, int key) override {
    std::unique_ptr<Communicator> part = host_->split(color, key);
    if (part->size() == 1) return part;
    std::unique_ptr<DeviceCollectives> collectives = collectives_->of_part(*part);
    return make_device_communicator(std::move(part), std::move(collectives), device_);
  }
  void give_up(const std::string& reason) noexcept override { host_->give_up(reason); }

 protected:
  [[nodiscard]] bool serves(Device device) const override {
    return device == device_ || is_host(device);
  }
  void do_all_reduce(const Tensor& x) override {
    if (!is_here(x)) return host_->all_reduce(x);
    collectives_->all_reduce(x);
  }
  void do_all_gather(const Tensor& shard, const Tensor& full, const PartitionedLayout& layout,
                     const Partition& partition) override;
  void do_reduce_scatter(const Tensor& full, const Tensor& shard, const PartitionedLayout& layout,
                         const Partition& partition) override;
  void do_broadcast(const Tensor& x, int root) override {
    if (!is_here(x)) return host_->broadcast(x, root);
    collectives_->broadcast(x, root);
  }
  void do_barrier() override { host_->barrier(); }
  std::unique_ptr<RingRotation> do_rotate(const Tensor& own) override {
    return is_here(own) ? collectives_->rotate(own) : host_->rotate(own);
  }

 private:
  [[nodiscard]] bool is_here(const Tensor& tensor) const { return tensor.device() == device_; }
  /// A shard or a full tensor with the dimension that is dealt in the middle.
  [[nodiscard]] static Tensor in_three(const Tensor& tensor, const PartitionedLayout& layout,
                                       std::int64_t extent) {
    return tensor.view({layout.outer, extent, inner_elements(tensor, layout)});
  }
  [[nodiscard]] static bool are_rows(const PartitionedLayout& layout, const Partition& partition) {
    return is_even(partition) && layout.outer <= kMostRows;
  }

  std::unique_ptr<Communicator> host_;
  std::unique_ptr<DeviceCollectives> collectives_;
  Device device_;
};

void DeviceCommunicator::do_all_gather(const Tensor& shard, const Tensor& full,
                                       const PartitionedLayout& layout,
                                       const Partition& partition) {
  const Tensor own = in_three(shard, layout, partition.share(rank()));
  if (!is_here(full)) {
    return host_->all_gather(own, in_three(full, layout, partition.extent()), 1, partition);
  }
  if (are_rows(layout, partition)) {
    const std::int64_t block = own.dim(1) * own.dim(2);
    return collectives_->all_gather(shard.view({layout.outer, block}),
                                    full.view({layout.outer, size(), block}));
  }
  const EqualBlocks blocks(full, layout, partition);
  ops::copy(own, blocks.part(rank()));
  collectives_->all_gather(blocks.block(rank()), blocks.all());
  for (int part = 0; part < size(); ++part) ops::copy(blocks.part(part), blocks.place(part));
}

void DeviceCommunicator::do_reduce_scatter(const Tensor& full, const Tensor& shard,
                                           const PartitionedLayout& layout,
                                           const Partition& partition) {
  const Tensor own = in_three(shard, layout, partition.share(rank()));
  if (!is_here(full)) {
    return host_->reduce_scatter(in_three(full, layout, partition.extent()), own, 1, partition);
  }
  if (are_rows(layout, partition)) {
    const std::int64_t block = own.dim(1) * own.dim(2);
    return collectives_->reduce_scatter(full.view({layout.outer, size(), block}),
                                        shard.view({layout.outer, block}));
  }
  const EqualBlocks blocks(full, layout, partition);
  for (int part = 0; part < size(); ++part) ops::copy(blocks.place(part), blocks.part(part));
  collectives_->reduce_scatter(blocks.all(), blocks.block(rank()));
  ops::copy(blocks.part(rank()), own);
}

}  // namespace

std::unique_ptr<Communicator> make_device_communicator(
    std::unique_ptr<Communicator> host, std::unique_ptr<DeviceCollectives> collectives,
    Device device) {
  return std::make_unique<DeviceCommunicator>(std::move(host), std::move(collectives), device);
}

}  // namespace portolan
