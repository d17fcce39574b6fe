// SPDX-License-Identifier: Apache-2.0
#include "parallel/communicator.hpp"

#include <algorithm>
#include <chrono>
#include <new>
#include <optional>
#include <utility>

#include "core/backend.hpp"
#include "core/error.hpp"
#include "core/shape_format.hpp"

namespace portolan {
namespace {

constexpr std::align_val_t kPage{4096};

std::int64_t bytes_of(const Tensor& tensor) { return static_cast<std::int64_t>(tensor.bytes()); }

void require_dense(const Tensor& tensor, const char* name, std::string_view operation) {
  require(tensor.defined(), "{} needs a tensor {}", operation, name);
  require(tensor.is_contiguous(), "{} needs a contiguous {}, found a strided {}", operation, name,
          tensor.shape());
}

void require_summable(const Tensor& tensor, std::string_view operation) {
  require(is_floating(tensor.dtype()), "{} sums f32, bf16 or f16, found {}", operation,
          name_of(tensor.dtype()));
}

/// Checks a tensor and its shards against a partition; returns the extents around the dimension.
PartitionedLayout require_partitioned(const Tensor& full, const Tensor& shard, int dimension,
                                      const Partition& partition, int rank, int size,
                                      std::string_view operation) {
  require_dense(full, "full tensor", operation);
  require_dense(shard, "shard", operation);
  require(full.dtype() == shard.dtype() && full.device() == shard.device(),
          "{}: the shard ({} on {}) and the full tensor ({} on {}) must agree", operation,
          name_of(shard.dtype()), name_of(shard.device().kind), name_of(full.dtype()),
          name_of(full.device().kind));
  require(partition.parts() == size, "{}: a partition in {} parts does not fit {} ranks", operation,
          partition.parts(), size);
  const int axis = dimension < 0 ? dimension + full.rank() : dimension;
  require(axis >= 0 && axis < full.rank(), "{}: dimension {} does not exist in shape {}", operation,
          dimension, full.shape());
  Shape expected = full.shape();
  expected[axis] = partition.share(rank);
  require(full.dim(axis) == partition.extent() && shard.shape() == expected,
          "{}: dimension {} of {} in shares of {} of {} gives rank {} a shard {}, found {}",
          operation, axis, full.shape(), partition.share(rank), partition.extent(), rank, expected,
          shard.shape());
  PartitionedLayout layout;
  layout.inner_bytes = static_cast<std::int64_t>(size_of(full.dtype()));
  for (int i = 0; i < axis; ++i) layout.outer *= full.dim(i);
  for (int i = axis + 1; i < full.rank(); ++i) layout.inner_bytes *= full.dim(i);
  return layout;
}

/// A host copy of a device tensor for transports that only reach host memory.
class HostStage {
 public:
  HostStage(Communicator& communicator, const Tensor& tensor)
      : tensor_(tensor),
        backend_(backend_of(tensor.device())),
        host_(communicator.allocate(tensor.shape(), tensor.dtype(), Device{DeviceKind::cpu, 0})) {}

  [[nodiscard]] const Tensor& host() const noexcept { return host_; }
  void fetch() { copy(host_, tensor_); }
  void put_back() { copy(tensor_, host_); }

 private:
  void copy(const Tensor& to, const Tensor& from) {
    backend_.copy_bytes(to.raw(), from.raw(), from.bytes(), Queue::compute);
    backend_.synchronize();
  }

  Tensor tensor_;
  Backend& backend_;
  Tensor host_;
};

/// The rotation of one rank, or of blocks without elements: there is nothing to bring.
class LocalRotation final : public RingRotation {
 public:
  LocalRotation(const Tensor& own, int rank, int size) : own_(own), source_(rank), size_(size) {}
  [[nodiscard]] int source() const override { return source_; }
  [[nodiscard]] const Tensor& current() const override { return own_; }
  void prefetch() override {}
  void advance() override { source_ = (source_ + size_ - 1) % size_; }

 private:
  Tensor own_;
  int source_;
  int size_;
};

/// Rotates host copies and brings each block to the device when it becomes current.
class DeviceRotation final : public RingRotation {
 public:
  DeviceRotation(const Tensor& own, std::unique_ptr<RingRotation> host)
      : current_(own), host_(std::move(host)), backend_(backend_of(own.device())) {}
  [[nodiscard]] int source() const override { return host_->source(); }
  [[nodiscard]] const Tensor& current() const override { return current_; }
  void prefetch() override { host_->prefetch(); }
  void advance() override {
    host_->advance();
    // Not into the block that queued kernels may still read; the allocator recycles that one.
    backend_.synchronize();
    current_ = Tensor::empty(current_.shape(), current_.dtype(), current_.device());
    backend_.copy_bytes(current_.raw(), host_->current().raw(), current_.bytes(), Queue::compute);
    backend_.synchronize();
  }

 private:
  Tensor current_;
  std::unique_ptr<RingRotation> host_;
  Backend& backend_;
};

}  // namespace

/// Counts one call and the time inside, which is at least that of an emulated link.
class CallTimer {
 public:
  CallTimer(Communicator& communicator, Collective collective, std::int64_t bytes)
      : CallTimer(communicator, collective) {
    ++counters_.calls;
    counters_.bytes += bytes;
    if (link_.active()) {
      least_seconds_ = link_.seconds(messages_of(collective, communicator.size()), bytes);
    }
  }
  /// A part of a call that is counted elsewhere.
  CallTimer(Communicator& communicator, Collective collective)
      : link_(communicator.link_),
        counters_(communicator.counters_[static_cast<std::size_t>(collective)]) {}
  ~CallTimer() {
    if (least_seconds_ > 0.0) wait_until(start_, least_seconds_);
    counters_.seconds +=
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }
  CallTimer(const CallTimer&) = delete;
  CallTimer& operator=(const CallTimer&) = delete;

  /// The transfer began earlier than the call.
  void begun_at(std::chrono::steady_clock::time_point time) {
    const double ahead = std::chrono::duration<double>(start_ - time).count();
    least_seconds_ = std::max(0.0, least_seconds_ - ahead);
  }

 private:
  const LinkEmulation& link_;
  CollectiveCounters& counters_;
  double least_seconds_ = 0.0;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

namespace {

class CountedRotation final : public RingRotation {
 public:
  CountedRotation(Communicator& communicator, std::unique_ptr<RingRotation> rotation)
      : communicator_(communicator), rotation_(std::move(rotation)) {}
  ~CountedRotation() override {
    const CallTimer timer(communicator_, Collective::ring_shift);
    rotation_.reset();
  }
  [[nodiscard]] int source() const override { return rotation_->source(); }
  [[nodiscard]] const Tensor& current() const override { return rotation_->current(); }
  void prefetch() override {
    const CallTimer timer(communicator_, Collective::ring_shift);
    if (!sent_for_) sent_for_ = std::chrono::steady_clock::now();
    rotation_->prefetch();
  }
  void advance() override {
    CallTimer timer(communicator_, Collective::ring_shift, bytes_of(rotation_->current()));
    if (sent_for_) timer.begun_at(*sent_for_);
    sent_for_.reset();
    rotation_->advance();
  }

 private:
  Communicator& communicator_;
  std::unique_ptr<RingRotation> rotation_;
  std::optional<std::chrono::steady_clock::time_point> sent_for_;  // the next block
};

}  // namespace

std::string_view name_of(Collective collective) {
  switch (collective) {
    case Collective::all_reduce:
      return "all_reduce";
    case Collective::all_gather:
      return "all_gather";
    case Collective::reduce_scatter:
      return "reduce_scatter";
    case Collective::broadcast:
      return "broadcast";
    case Collective::ring_shift:
      return "ring_shift";
    case Collective::barrier:
      return "barrier";
  }
  return "unknown";
}

std::int64_t messages_of(Collective collective, int ranks) {
  switch (collective) {
    case Collective::all_reduce:
      return 2 * (ranks - 1);
    case Collective::all_gather:
    case Collective::reduce_scatter:
      return ranks - 1;
    case Collective::broadcast:
    case Collective::ring_shift:
    case Collective::barrier:
      return 1;
  }
  return 0;
}

void Communicator::all_reduce(const Tensor& x) {
  require_dense(x, "tensor", "all_reduce");
  require_summable(x, "all_reduce");
  if (size() == 1) return;
  const std::int64_t share = Partition::even(x.elements(), size()).share(rank());
  const CallTimer timer(
      *this, Collective::all_reduce,
      std::int64_t{2} * (size() - 1) * share * static_cast<std::int64_t>(size_of(x.dtype())));
  if (x.elements() == 0) return;
  if (serves(x.device())) return do_all_reduce(x);
  HostStage stage(*this, x);
  stage.fetch();
  do_all_reduce(stage.host());
  stage.put_back();
}

void Communicator::all_gather(const Tensor& shard, const Tensor& full, int dimension,
                              const Partition& partition) {
  const PartitionedLayout layout =
      require_partitioned(full, shard, dimension, partition, rank(), size(), "all_gather");
  if (size() == 1) return do_all_gather(shard, full, layout, partition);
  const CallTimer timer(*this, Collective::all_gather, bytes_of(full) - bytes_of(shard));
  if (full.elements() == 0) return;
  if (serves(full.device())) return do_all_gather(shard, full, layout, partition);
  HostStage source(*this, shard);
  HostStage target(*this, full);
  source.fetch();
  do_all_gather(source.host(), target.host(), layout, partition);
  target.put_back();
}

void Communicator::reduce_scatter(const Tensor& full, const Tensor& shard, int dimension,
                                  const Partition& partition) {
  const PartitionedLayout layout =
      require_partitioned(full, shard, dimension, partition, rank(), size(), "reduce_scatter");
  require_summable(full, "reduce_scatter");
  if (size() == 1) return do_reduce_scatter(full, shard, layout, partition);
  const CallTimer timer(*this, Collective::reduce_scatter, (size() - 1) * bytes_of(shard));
  if (full.elements() == 0) return;
  if (serves(full.device())) return do_reduce_scatter(full, shard, layout, partition);
  HostStage source(*this, full);
  HostStage target(*this, shard);
  source.fetch();
  do_reduce_scatter(source.host(), target.host(), layout, partition);
  target.put_back();
}

void Communicator::broadcast(const Tensor& x, int root) {
  require_dense(x, "tensor", "broadcast");
  require(root >= 0 && root < size(), "broadcast from rank {} of {}", root, size());
  if (size() == 1) return;
  const CallTimer timer(*this, Collective::broadcast, rank() == root ? 0 : bytes_of(x));
  if (x.elements() == 0) return;
  if (serves(x.device())) return do_broadcast(x, root);
  HostStage stage(*this, x);
  if (rank() == root) stage.fetch();
  do_broadcast(stage.host(), root);
  if (rank() != root) stage.put_back();
}

void Communicator::barrier() {
  if (size() == 1) return;
  const CallTimer timer(*this, Collective::barrier, 0);
  do_barrier();
}

std::unique_ptr<RingRotation> Communicator::rotate(const Tensor& own) {
  require_dense(own, "block", "a ring rotation");
  if (size() == 1) return std::make_unique<LocalRotation>(own, 0, 1);
  const CallTimer timer(*this, Collective::ring_shift);
  std::unique_ptr<RingRotation> rotation;
  if (own.elements() == 0) {
    rotation = std::make_unique<LocalRotation>(own, rank(), size());
  } else if (serves(own.device())) {
    rotation = do_rotate(own);
  } else {
    HostStage stage(*this, own);
    stage.fetch();
    rotation = std::make_unique<DeviceRotation>(own, do_rotate(stage.host()));
  }
  return std::make_unique<CountedRotation>(*this, std::move(rotation));
}

std::vector<std::byte> Communicator::exchange(std::span<const std::byte> own) {
  const auto bytes = static_cast<std::int64_t>(own.size());
  std::vector<std::byte> all(own.size() * static_cast<std::size_t>(size()));
  const Device host{DeviceKind::cpu, 0};
  const Tensor shard =
      Tensor::borrow(const_cast<std::byte*>(own.data()), {1, bytes}, DType::u8, host);
  const Tensor full = Tensor::borrow(all.data(), {size(), bytes}, DType::u8, host);
  do_all_gather(shard, full, {.outer = 1, .inner_bytes = bytes}, Partition::even(size(), size()));
  return all;
}

Tensor allocate_private(const Shape& shape, DType dtype, Device device) {
  if (has_backend(device) || !is_host(device)) return Tensor::empty(shape, dtype, device);
  const auto bytes = static_cast<std::size_t>(shape.elements()) * size_of(dtype);
  void* memory = ::operator new(bytes, kPage);
  return Tensor(
      BlockReference::borrow(memory, bytes, [memory] { ::operator delete(memory, kPage); }), 0,
      shape, dtype, device);
}

}  // namespace portolan
