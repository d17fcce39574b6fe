// SPDX-License-Identifier: Apache-2.0
#include "parallel/transport/shared/shared_communicator.hpp"

#include <algorithm>
#include <cstring>
#include <exception>
#include <utility>
#include <vector>

#include "core/error.hpp"
#include "parallel/host_operations.hpp"
#include "parallel/pieces.hpp"
#include "parallel/transport/shared/shared_group.hpp"
#include "parallel/transport/shared/window.hpp"

namespace portolan {
namespace {

// One half of a rank's staging memory: a chunk stays in the caches, and a step per chunk is cheap.
constexpr std::int64_t kStagingBytes = std::int64_t{1} << 19;
// Up to here all ranks sum everything: a second step costs more than the redundant work, which
// grows with the number of ranks.
constexpr std::int64_t kSymmetricBytes = std::int64_t{16} << 10;
// Up to here a copy through staging memory, one step, beats reading in place, two steps.
constexpr std::int64_t kStagedBytes = std::int64_t{8} << 10;
// Slices of a sum begin on cache lines of their own.
constexpr std::int64_t kSliceUnit = 64;

std::int64_t bytes_of(const Tensor& tensor) { return static_cast<std::int64_t>(tensor.bytes()); }

/// copy_dense for memory of the kind that `like` is.
void copy_like(const Tensor& like, std::byte* to, const std::byte* from, std::int64_t bytes) {
  copy_dense(to, from, bytes, like.dtype(), like.device());
}

/// The peers' blocks, read where they are.
class SharedRotation final : public RingRotation {
 public:
  /// `blocks` by rank.
  SharedRotation(SharedGroup& group, std::vector<Tensor> blocks, const StepDescriptor& closing)
      : group_(group),
        blocks_(std::move(blocks)),
        closing_(closing),
        source_(group.rank()),
        exceptions_at_start_(std::uncaught_exceptions()) {}

  ~SharedRotation() override {
    try {
      if (std::uncaught_exceptions() > exceptions_at_start_) {
        group_.give_up(fmt::format("rank {} left a ring rotation because of an error of its own",
                                   group_.rank()));
      } else {
        group_.step(closing_);
      }
    } catch (const std::exception& error) {
      group_.give_up(error.what());  // which the next call throws
    }
  }

  [[nodiscard]] int source() const override { return source_; }
  [[nodiscard]] const Tensor& current() const override {
    return blocks_[static_cast<std::size_t>(source_)];
  }
  void prefetch() override {}
  void advance() override { source_ = (source_ + group_.size() - 1) % group_.size(); }

 private:
  SharedGroup& group_;
  std::vector<Tensor> blocks_;
  StepDescriptor closing_;
  int source_;
  int exceptions_at_start_;
};

class SharedCommunicator final : public Communicator {
 public:
  SharedCommunicator(std::shared_ptr<SharedSegment> control, int rank, int size,
                     std::chrono::milliseconds deadline)
      : group_(control, rank, size, deadline),
        window_(std::make_shared<Window>(std::move(control), group_.slot(rank), size)),
        peers_(size) {
    StepDescriptor opening{.collective = Collective::barrier};
    try {
      staging_ = window_->allocate({2 * kStagingBytes}, DType::u8, Device{});
      opening.source = window_->position_of(staging_);
      group_.step(opening);
      for (int peer = 0; peer < size; ++peer) {
        staging_of_.push_back(data_of(peer, group_.brought(peer).source, staging_));
      }
      group_.step({.collective = Collective::barrier});  // nobody ends before all have mapped
    } catch (const std::exception& error) {
      group_.give_up(error.what());
      throw;
    }
  }

  [[nodiscard]] int rank() const override { return group_.rank(); }
  [[nodiscard]] int size() const override { return group_.size(); }
  [[nodiscard]] std::string description() const override { return "shared memory"; }
  [[nodiscard]] MemoryCounters memory() const override { return window_->memory(); }
  void reset_memory_peaks() override { window_->reset_memory_peaks(); }

  [[nodiscard]] Tensor allocate(const Shape& shape, DType dtype, Device device) override {
    if (!serves(device)) return allocate_private(shape, dtype, device);
    return window_->allocate(shape, dtype, device);
  }

  [[nodiscard]] std::unique_ptr<Communicator> split(int color, int key) override;
  void give_up(const std::string& reason) noexcept override { group_.give_up(reason); }

 protected:
  void do_all_reduce(const Tensor& x) override;
  void do_all_gather(const Tensor& shard, const Tensor& full, const PartitionedLayout& layout,
                     const Partition& partition) override;
  void do_reduce_scatter(const Tensor& full, const Tensor& shard, const PartitionedLayout& layout,
                         const Partition& partition) override;
  void do_broadcast(const Tensor& x, int root) override;
  void do_barrier() override { group_.step({.collective = Collective::barrier}); }
  std::unique_ptr<RingRotation> do_rotate(const Tensor& own) override;

 private:
  /// A peer's tensor in this process; `own` is this rank's.
  std::byte* data_of(int peer, const WindowPosition& position, const Tensor& own) {
    if (peer == rank()) return own.raw();
    try {
      return peers_.address(group_.slot(peer), peer, position);
    } catch (const CommunicationError& error) {
      group_.fail_because_of(peer, error.what());
    }
  }
  /// A rank's staging memory at the next step, or at the last one.
  std::byte* next_staging(int peer) { return staging(peer, group_.next_parity()); }
  std::byte* last_staging(int peer) { return staging(peer, 1 - group_.next_parity()); }
  std::byte* staging(int peer, std::size_t parity) {
    return staging_of_[static_cast<std::size_t>(peer)] + parity * kStagingBytes;
  }
  bool all_in_windows(WindowPosition StepDescriptor::*position) {
    for (int peer = 0; peer < size(); ++peer) {
      if (!(group_.brought(peer).*position).readable()) return false;
    }
    return true;
  }
  /// Sums this rank's slice of everybody's `data` into all of them.
  void reduce_slice(const std::vector<std::byte*>& data, std::int64_t elements, DType dtype,
                    Device device);

  SharedGroup group_;
  std::shared_ptr<Window> window_;
  PeerWindows peers_;
  Tensor staging_;
  std::vector<std::byte*> staging_of_;
};

void SharedCommunicator::reduce_slice(const std::vector<std::byte*>& data, std::int64_t elements,
                                      DType dtype, Device device) {
  const Partition slices = Partition::even(elements, size(), kSliceUnit);
  const auto begin = slices.offset(rank()) * static_cast<std::int64_t>(size_of(dtype));
  std::vector<const std::byte*> inputs;
  std::vector<std::byte*> outs;
  for (std::byte* address : data) {
    inputs.push_back(address + begin);
    outs.push_back(address + begin);
  }
  sum_in_order(inputs, outs, slices.share(rank()), dtype, device);
}

void SharedCommunicator::do_all_reduce(const Tensor& x) {
  const auto bytes = bytes_of(x);
  const auto element = static_cast<std::int64_t>(size_of(x.dtype()));
  StepDescriptor step{.collective = Collective::all_reduce, .dtype = x.dtype(), .bytes = bytes};
  std::vector<std::byte*> data(static_cast<std::size_t>(size()));
  const auto each = [&](auto&& address_of) {
    for (int peer = 0; peer < size(); ++peer)
      data[static_cast<std::size_t>(peer)] = address_of(peer);
  };
  if (bytes * size() <= kSymmetricBytes) {
    copy_like(x, next_staging(rank()), x.raw(), bytes);
    group_.step(step);
    each([&](int peer) { return last_staging(peer); });
    const std::vector<const std::byte*> inputs(data.begin(), data.end());
    std::byte* out = x.raw();
    return sum_in_order(inputs, {&out, 1}, x.elements(), x.dtype(), x.device());
  }
  step.source = window_->position_of(x);
  group_.step(step);
  if (all_in_windows(&StepDescriptor::source)) {
    each([&](int peer) { return data_of(peer, group_.brought(peer).source, x); });
    reduce_slice(data, x.elements(), x.dtype(), x.device());
    return group_.step(step);
  }
  for (std::int64_t begin = 0; begin < bytes; begin += kStagingBytes) {
    const std::int64_t count = std::min(kStagingBytes, bytes - begin);
    copy_like(x, next_staging(rank()), x.raw() + begin, count);
    group_.step(step);
    each([&](int peer) { return last_staging(peer); });
    reduce_slice(data, count / element, x.dtype(), x.device());
    group_.step(step);
    copy_like(x, x.raw() + begin, data[static_cast<std::size_t>(rank())], count);
  }
}

void SharedCommunicator::do_all_gather(const Tensor& shard, const Tensor& full,
                                       const PartitionedLayout& layout,
                                       const Partition& partition) {
  StepDescriptor step{.collective = Collective::all_gather,
                      .dtype = full.dtype(),
                      .bytes = full_bytes(layout, partition)};
  const std::int64_t largest = layout.outer * partition.largest_share() * layout.inner_bytes;
  // Bytes [begin, end) of a rank's shard, which lie at `from`, to their places in the tensor `to`.
  const auto place = [&](int part, const std::byte* from, std::byte* to, std::int64_t begin,
                         std::int64_t end) {
    for_each_piece(layout, partition, part, begin, end,
                   [&](std::int64_t in_full, std::int64_t in_part, std::int64_t bytes) {
                     copy_like(full, to + in_full, from + (in_part - begin), bytes);
                   });
  };
  if (largest > kStagedBytes) {
    step.source = window_->position_of(shard);
    step.target = window_->position_of(full);
    group_.step(step);
    const bool read = all_in_windows(&StepDescriptor::source);
    if (read || all_in_windows(&StepDescriptor::target)) {
      for (int i = 0; i < size(); ++i) {
        // Each rank starts at its own, so that not all read from the same one.
        const int peer = (rank() + i) % size();
        const StepDescriptor& brought = group_.brought(peer);
        if (read) {
          place(peer, data_of(peer, brought.source, shard), full.raw(), 0,
                part_bytes(layout, partition, peer));
        } else {
          place(rank(), shard.raw(), data_of(peer, brought.target, full), 0, bytes_of(shard));
        }
      }
      return group_.step(step);
    }
  }
  for (std::int64_t begin = 0; begin < largest; begin += kStagingBytes) {
    const auto count = [&](int part) {
      return std::min(kStagingBytes, part_bytes(layout, partition, part) - begin);
    };
    copy_like(full, next_staging(rank()), shard.raw() + begin, count(rank()));
    group_.step(step);
    for (int part = 0; part < size(); ++part) {
      place(part, last_staging(part), full.raw(), begin, begin + count(part));
    }
  }
}

void SharedCommunicator::do_reduce_scatter(const Tensor& full, const Tensor& shard,
                                           const PartitionedLayout& layout,
                                           const Partition& partition) {
  StepDescriptor step{.collective = Collective::reduce_scatter,
                      .dtype = full.dtype(),
                      .bytes = full_bytes(layout, partition)};
  const auto element = static_cast<std::int64_t>(size_of(full.dtype()));
  std::vector<const std::byte*> inputs(static_cast<std::size_t>(size()));
  const auto sum = [&](auto&& address_of, std::int64_t offset, std::int64_t bytes) {
    for (int peer = 0; peer < size(); ++peer) {
      inputs[static_cast<std::size_t>(peer)] = address_of(peer);
    }
    std::byte* out = shard.raw() + offset;
    sum_in_order(inputs, {&out, 1}, bytes / element, full.dtype(), full.device());
  };
  if (step.bytes > kStagedBytes) {
    step.source = window_->position_of(full);
    group_.step(step);
    if (all_in_windows(&StepDescriptor::source)) {
      std::vector<std::byte*> fulls;
      fulls.reserve(inputs.size());
      for (int peer = 0; peer < size(); ++peer) {
        fulls.push_back(data_of(peer, group_.brought(peer).source, full));
      }
      for_each_piece(
          layout, partition, rank(), 0, bytes_of(shard),
          [&](std::int64_t in_full, std::int64_t in_part, std::int64_t bytes) {
            sum([&](int peer) { return fulls[static_cast<std::size_t>(peer)] + in_full; }, in_part,
                bytes);
          });
      return group_.step(step);
    }
  }
  // A chunk of every part goes through staging memory at a time, so that all ranks have work.
  const std::int64_t largest = layout.outer * partition.largest_share() * layout.inner_bytes;
  const std::int64_t chunk = kStagingBytes / size() / 64 * 64;
  for (std::int64_t begin = 0; begin < largest; begin += chunk) {
    const auto end = [&](int part) {
      return std::min(begin + chunk, part_bytes(layout, partition, part));
    };
    for (int part = 0; part < size(); ++part) {
      std::byte* to = next_staging(rank()) + part * chunk;
      for_each_piece(layout, partition, part, begin, end(part),
                     [&](std::int64_t in_full, std::int64_t in_part, std::int64_t bytes) {
                       copy_like(full, to + (in_part - begin), full.raw() + in_full, bytes);
                     });
    }
    group_.step(step);
    if (end(rank()) <= begin) continue;
    sum([&](int peer) { return last_staging(peer) + rank() * chunk; }, begin, end(rank()) - begin);
  }
}

void SharedCommunicator::do_broadcast(const Tensor& x, int root) {
  const std::int64_t bytes = bytes_of(x);
  StepDescriptor step{
      .collective = Collective::broadcast, .dtype = x.dtype(), .root = root, .bytes = bytes};
  if (bytes > kStagedBytes) {
    step.source = window_->position_of(x);
    group_.step(step);
    const WindowPosition& position = group_.brought(root).source;
    if (position.readable()) {
      copy_like(x, x.raw(), data_of(root, position, x), bytes);
      return group_.step(step);
    }
  }
  for (std::int64_t begin = 0; begin < bytes; begin += kStagingBytes) {
    const std::int64_t count = std::min(kStagingBytes, bytes - begin);
    if (rank() == root) copy_like(x, next_staging(root), x.raw() + begin, count);
    group_.step(step);
    if (rank() != root) copy_like(x, x.raw() + begin, last_staging(root), count);
  }
}

std::unique_ptr<RingRotation> SharedCommunicator::do_rotate(const Tensor& own) {
  Tensor block = own;
  if (!window_->position_of(own).readable()) {
    block = window_->allocate(own.shape(), own.dtype(), own.device());
    copy_like(own, block.raw(), own.raw(), bytes_of(own));
  }
  StepDescriptor step{.collective = Collective::ring_shift,
                      .dtype = own.dtype(),
                      .bytes = bytes_of(own),
                      .source = window_->position_of(block)};
  group_.step(step);
  std::vector<Tensor> blocks;
  blocks.reserve(static_cast<std::size_t>(size()));
  for (int peer = 0; peer < size(); ++peer) {
    blocks.push_back(peer == rank()
                         ? block
                         : Tensor::borrow(data_of(peer, group_.brought(peer).source, block),
                                          own.shape(), own.dtype(), own.device()));
  }
  return std::make_unique<SharedRotation>(group_, std::move(blocks), step);
}

std::unique_ptr<Communicator> SharedCommunicator::split(int color, int key) {
  struct Choice {
    int color;
    int key;
  };
  const Choice own{color, key};
  const std::vector<std::byte> all = exchange(std::as_bytes(std::span(&own, 1)));
  const auto choice_of = [&all](int peer) {
    Choice choice;
    std::memcpy(&choice, all.data() + static_cast<std::size_t>(peer) * sizeof(Choice),
                sizeof(Choice));
    return choice;
  };
  std::vector<int> members;
  for (int peer = 0; peer < size(); ++peer) {
    if (choice_of(peer).color == color) members.push_back(peer);
  }
  std::stable_sort(members.begin(), members.end(),
                   [&](int a, int b) { return choice_of(a).key < choice_of(b).key; });
  const auto new_size = static_cast<int>(members.size());
  const int leader = members.front();
  const auto new_rank =
      static_cast<int>(std::find(members.begin(), members.end(), rank()) - members.begin());

  // Every rank takes part in the exchanges, also one that ends up alone.
  std::shared_ptr<SharedSegment> control;
  SegmentName name;
  try {
    if (rank() == leader && new_size > 1) {
      control = std::make_shared<SharedSegment>(SharedGroup::make_control(new_size));
      name = control->name();
    }
    const std::vector<std::byte> names = exchange(std::as_bytes(std::span(&name, 1)));
    if (new_size == 1) return make_single_communicator();
    if (rank() != leader) {
      std::memcpy(&name, names.data() + static_cast<std::size_t>(leader) * sizeof(name),
                  sizeof(name));
      control = std::make_shared<SharedSegment>(SharedSegment::open(name));
    }
    return std::make_unique<SharedCommunicator>(control, new_rank, new_size, group_.deadline());
  } catch (const std::exception& error) {
    group_.give_up(error.what());
    throw;
  }
}

}  // namespace

SharedSegment make_shared_control(int size) { return SharedGroup::make_control(size); }

std::unique_ptr<Communicator> make_shared_communicator(std::shared_ptr<SharedSegment> control,
                                                       int rank, int size,
                                                       std::chrono::milliseconds deadline) {
  require(size >= 1 && rank >= 0 && rank < size, "rank {} of {} does not exist", rank, size);
  if (size == 1) return make_single_communicator();
  return std::make_unique<SharedCommunicator>(std::move(control), rank, size, deadline);
}

}  // namespace portolan
