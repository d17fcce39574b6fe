// SPDX-License-Identifier: Apache-2.0
#include "parallel/transport/mpi/mpi_communicator.hpp"

#include <algorithm>
#include <exception>
#include <initializer_list>
#include <utility>
#include <vector>

#include "core/error.hpp"
#include "parallel/host_operations.hpp"
#include "parallel/pieces.hpp"

namespace portolan {
namespace {

// Staging memory per collective: large enough for full speed, small beside the tensors.
constexpr std::int64_t kChunkBytes = std::int64_t{4} << 20;
// Up to here everything goes to everybody, one round of messages instead of two.
constexpr std::int64_t kWholeBytes = std::int64_t{16} << 10;
constexpr std::int64_t kSliceUnit = 64;

std::int64_t bytes_of(const Tensor& tensor) { return static_cast<std::int64_t>(tensor.bytes()); }

class MpiCommunicator final : public Communicator {
 public:
  explicit MpiCommunicator(const MpiGroup& group)
      : group_(group), exceptions_at_start_(std::uncaught_exceptions()) {}
  ~MpiCommunicator() override {
    if (std::uncaught_exceptions() > exceptions_at_start_) {
      group_.give_up(fmt::format("rank {} stopped because of an error of its own", rank()));
    }
  }

  [[nodiscard]] int rank() const override { return group_.rank(); }
  [[nodiscard]] int size() const override { return group_.size(); }
  [[nodiscard]] std::string description() const override { return "MPI"; }
  [[nodiscard]] Tensor allocate(const Shape& shape, DType dtype, Device device) override {
    return allocate_private(shape, dtype, device);
  }
  [[nodiscard]] MemoryCounters memory() const override {
    const std::int64_t bytes = scratch_.defined() ? bytes_of(scratch_) : 0;
    return {bytes, bytes, bytes, bytes};
  }
  [[nodiscard]] std::unique_ptr<Communicator> split(int color, int key) override {
    const MpiGroup part = group_.split(color, key);
    if (part.size() == 1) return make_single_communicator();
    return make_mpi_communicator_over(part);
  }
  void give_up(const std::string& reason) noexcept override { group_.give_up(reason); }

 protected:
  void do_all_reduce(const Tensor& x) override;
  void do_all_gather(const Tensor& shard, const Tensor& full, const PartitionedLayout& layout,
                     const Partition& partition) override;
  void do_reduce_scatter(const Tensor& full, const Tensor& shard, const PartitionedLayout& layout,
                         const Partition& partition) override;
  void do_broadcast(const Tensor& x, int root) override;
  void do_barrier() override;
  std::unique_ptr<RingRotation> do_rotate(const Tensor& own) override {
    return make_mpi_rotation(group_, own);
  }

 private:
  [[nodiscard]] MpiGroup::Batch batch(Collective collective,
                                      std::initializer_list<Tensor> memory = {}) const {
    return {group_, name_of(collective), memory};
  }
  /// The i-th rank after this one: ranks that all begin with rank 0 would make it the bottleneck.
  [[nodiscard]] int after(int i) const { return (rank() + i) % size(); }
  /// At least that many bytes, valid until the next call.
  std::byte* scratch(std::int64_t bytes) {
    if (!scratch_.defined() || bytes_of(scratch_) < bytes) {
      scratch_ = Tensor();
      scratch_ = allocate_scratch(bytes);
    }
    return scratch_.raw();
  }
  static Tensor allocate_scratch(std::int64_t bytes);
  /// Elements [begin, begin + elements) of x.
  void reduce_whole(const Tensor& x, std::int64_t begin, std::int64_t elements);
  void reduce_slices(const Tensor& x, std::int64_t begin, std::int64_t elements);

  MpiGroup group_;
  int exceptions_at_start_;
  Tensor scratch_;
};

Tensor MpiCommunicator::allocate_scratch(std::int64_t bytes) {
  auto memory = std::make_shared_for_overwrite<std::byte[]>(static_cast<std::size_t>(bytes));
  std::byte* data = memory.get();
  return Tensor(BlockReference::borrow(data, static_cast<std::size_t>(bytes),
                                       [memory = std::move(memory)]() mutable { memory.reset(); }),
                0, {bytes}, DType::u8, Device{});
}

/// Everybody's data to everybody, who sums all of it.
void MpiCommunicator::reduce_whole(const Tensor& x, std::int64_t begin, std::int64_t elements) {
  const auto element = static_cast<std::int64_t>(size_of(x.dtype()));
  const std::int64_t bytes = elements * element;
  std::byte* data = x.raw() + begin * element;
  std::byte* received = scratch(bytes * size());
  MpiGroup::Batch messages = batch(Collective::all_reduce, {x, scratch_});
  std::vector<const std::byte*> inputs(static_cast<std::size_t>(size()), data);
  for (int i = 1; i < size(); ++i) {
    const int peer = after(i);
    inputs[static_cast<std::size_t>(peer)] = received + peer * bytes;
    messages.receive(received + peer * bytes, bytes, peer);
  }
  for (int i = 1; i < size(); ++i) messages.send(data, bytes, after(i));
  messages.wait();
  sum_in_order(inputs, {&data, 1}, elements, x.dtype(), x.device());
}

/// Slices to their ranks, who sum them and send the sums to everybody.
void MpiCommunicator::reduce_slices(const Tensor& x, std::int64_t begin, std::int64_t elements) {
  const auto element = static_cast<std::int64_t>(size_of(x.dtype()));
  std::byte* data = x.raw() + begin * element;
  const Partition slices = Partition::even(elements, size(), kSliceUnit);
  const auto slice = [&](int peer) { return data + slices.offset(peer) * element; };
  const auto bytes = [&](int peer) { return slices.share(peer) * element; };
  const std::int64_t own_bytes = bytes(rank());
  std::byte* received = scratch(own_bytes * size());
  std::vector<const std::byte*> inputs(static_cast<std::size_t>(size()), slice(rank()));
  MpiGroup::Batch parts = batch(Collective::all_reduce, {x, scratch_});
  for (int i = 1; i < size() && own_bytes > 0; ++i) {
    const int peer = after(i);
    inputs[static_cast<std::size_t>(peer)] = received + peer * own_bytes;
    parts.receive(received + peer * own_bytes, own_bytes, peer);
  }
  for (int i = 1; i < size(); ++i) {
    if (bytes(after(i)) > 0) parts.send(slice(after(i)), bytes(after(i)), after(i));
  }
  parts.wait();
  std::byte* out = slice(rank());
  sum_in_order(inputs, {&out, 1}, slices.share(rank()), x.dtype(), x.device());

  MpiGroup::Batch sums = batch(Collective::all_reduce, {x, scratch_});
  for (int i = 1; i < size(); ++i) {
    if (bytes(after(i)) > 0) sums.receive(slice(after(i)), bytes(after(i)), after(i));
  }
  for (int i = 1; i < size() && own_bytes > 0; ++i) sums.send(out, own_bytes, after(i));
  sums.wait();
}

void MpiCommunicator::do_all_reduce(const Tensor& x) {
  const auto element = static_cast<std::int64_t>(size_of(x.dtype()));
  // Between two ranks both ways send the same bytes.
  const bool whole = size() == 2 || bytes_of(x) <= kWholeBytes;
  const std::int64_t chunk = kChunkBytes / element;
  for (std::int64_t begin = 0; begin < x.elements(); begin += chunk) {
    const std::int64_t count = std::min(chunk, x.elements() - begin);
    whole ? reduce_whole(x, begin, count) : reduce_slices(x, begin, count);
  }
}

void MpiCommunicator::do_all_gather(const Tensor& shard, const Tensor& full,
                                    const PartitionedLayout& layout, const Partition& partition) {
  const auto place = [&](int part, const std::byte* from, std::int64_t begin, std::int64_t end) {
    for_each_piece(layout, partition, part, begin, end,
                   [&](std::int64_t in_full, std::int64_t in_part, std::int64_t bytes) {
                     copy_dense(full.raw() + in_full, from + (in_part - begin), bytes, full.dtype(),
                                full.device());
                   });
  };
  const bool in_place = layout.outer == 1;  // parts are contiguous in the full tensor
  const std::int64_t largest = layout.outer * partition.largest_share() * layout.inner_bytes;
  const std::int64_t chunk = in_place ? largest : kChunkBytes / size() / kSliceUnit * kSliceUnit;
  std::byte* received = in_place ? nullptr : scratch(chunk * size());
  for (std::int64_t begin = 0; begin < largest; begin += chunk) {
    const auto end = [&](int part) {
      return std::min(begin + chunk, part_bytes(layout, partition, part));
    };
    MpiGroup::Batch messages = batch(Collective::all_gather, {shard, full, scratch_});
    for (int i = 1; i < size(); ++i) {
      const int peer = after(i);
      if (end(peer) <= begin) continue;
      std::byte* to = in_place ? full.raw() + partition.offset(peer) * layout.inner_bytes
                               : received + peer * chunk;
      messages.receive(to, end(peer) - begin, peer);
    }
    for (int i = 1; i < size() && end(rank()) > begin; ++i) {
      messages.send(shard.raw() + begin, end(rank()) - begin, after(i));
    }
    if (end(rank()) > begin) place(rank(), shard.raw() + begin, begin, end(rank()));
    messages.wait();
    if (in_place) continue;
    for (int i = 1; i < size(); ++i) {
      place(after(i), received + after(i) * chunk, begin, end(after(i)));
    }
  }
}

void MpiCommunicator::do_reduce_scatter(const Tensor& full, const Tensor& shard,
                                        const PartitionedLayout& layout,
                                        const Partition& partition) {
  const auto element = static_cast<std::int64_t>(size_of(full.dtype()));
  const std::int64_t largest = layout.outer * partition.largest_share() * layout.inner_bytes;
  const std::int64_t chunk = kChunkBytes / size() / kSliceUnit * kSliceUnit;
  std::byte* outgoing = scratch(2 * chunk * size());
  std::byte* incoming = outgoing + chunk * size();
  for (std::int64_t begin = 0; begin < largest; begin += chunk) {
    const auto end = [&](int part) {
      return std::min(begin + chunk, part_bytes(layout, partition, part));
    };
    MpiGroup::Batch messages = batch(Collective::reduce_scatter, {full, scratch_});
    const std::int64_t own = std::max<std::int64_t>(0, end(rank()) - begin);
    std::vector<const std::byte*> inputs(static_cast<std::size_t>(size()));
    for (int i = 1; i < size() && own > 0; ++i) {
      messages.receive(incoming + after(i) * chunk, own, after(i));
    }
    for (int i = 0; i < size(); ++i) {
      const int part = after(i);
      const std::byte* data = full.raw() + partition.offset(part) * layout.inner_bytes + begin;
      if (layout.outer > 1) {
        std::byte* to = outgoing + part * chunk;
        for_each_piece(layout, partition, part, begin, end(part),
                       [&](std::int64_t in_full, std::int64_t in_part, std::int64_t bytes) {
                         copy_dense(to + (in_part - begin), full.raw() + in_full, bytes,
                                    full.dtype(), full.device());
                       });
        data = to;
      }
      if (i > 0 && end(part) > begin) messages.send(data, end(part) - begin, part);
      inputs[static_cast<std::size_t>(part)] = i == 0 ? data : incoming + part * chunk;
    }
    messages.wait();
    if (own == 0) continue;
    std::byte* out = shard.raw() + begin;
    sum_in_order(inputs, {&out, 1}, own / element, full.dtype(), full.device());
  }
}

void MpiCommunicator::do_broadcast(const Tensor& x, int root) {
  // A binomial tree over ranks counted from the root.
  const int place = (rank() + size() - root) % size();
  const auto rank_at = [&](int other) { return (other + root) % size(); };
  int reach = 1;  // children stand at place + reach / 2, + reach / 4, ...
  while (reach < size() && (place & reach) == 0) reach *= 2;
  for (std::int64_t begin = 0; begin < bytes_of(x); begin += kChunkBytes) {
    const std::int64_t count = std::min(kChunkBytes, bytes_of(x) - begin);
    if (place != 0) {
      MpiGroup::Batch message = batch(Collective::broadcast, {x});
      message.receive(x.raw() + begin, count, rank_at(place - reach));
      message.wait();
    }
    MpiGroup::Batch messages = batch(Collective::broadcast, {x});
    for (int child = reach / 2; child > 0; child /= 2) {
      if (place + child < size()) messages.send(x.raw() + begin, count, rank_at(place + child));
    }
    messages.wait();
  }
}

void MpiCommunicator::do_barrier() {
  // Dissemination (Hensgen, Finkel, Manber 1988): after round k a rank knows of 2^k others.
  for (int distance = 1; distance < size(); distance *= 2) {
    MpiGroup::Batch messages = batch(Collective::barrier);
    std::byte nothing{};
    messages.receive(&nothing, 0, (rank() + size() - distance) % size());
    messages.send(&nothing, 0, (rank() + distance) % size());
    messages.wait();
  }
}

}  // namespace

std::unique_ptr<Communicator> make_mpi_communicator_over(const MpiGroup& group) {
  return std::make_unique<MpiCommunicator>(group);
}

}  // namespace portolan
