// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/allocator.hpp"
#include "core/tensor.hpp"
#include "parallel/link_emulation.hpp"
#include "parallel/partition.hpp"

namespace portolan {

enum class Collective { all_reduce, all_gather, reduce_scatter, broadcast, ring_shift, barrier };
inline constexpr int kCollectiveCount = 6;
[[nodiscard]] std::string_view name_of(Collective collective);

/// What one kind of collective did on this rank.
struct CollectiveCounters {
  std::int64_t calls = 0;
  /// Bytes that this rank takes from its peers or gives to them, by the definition of the
  /// collective and whichever way a transport moves them. With n the bytes of the whole tensor and
  /// p ranks:
  ///   all_reduce      2 (p-1) x the bytes of this rank's share of the elements, dealt evenly
  ///   all_gather      n - own shard
  ///   reduce_scatter  (p-1) x own shard
  ///   broadcast       n on each rank but the root
  ///   ring_shift      the bytes of the block received; one call per advance()
  /// Summed over ranks: 2 n (p-1), n (p-1), n (p-1), n (p-1), and the blocks received by all.
  /// On one rank nothing is communicated and nothing is counted.
  std::int64_t bytes = 0;
  /// Wall time inside the calls, waiting for peers included.
  double seconds = 0.0;
};
using CommunicationCounters = std::array<CollectiveCounters, kCollectiveCount>;

/// Messages that follow each other in a call among so many ranks, as rings of messages send a
/// collective's bytes; of ring_shift, in one advance().
[[nodiscard]] std::int64_t messages_of(Collective collective, int ranks);

/// Extents of a tensor around the dimension that a Partition deals: [outer, extent, inner].
struct PartitionedLayout {
  std::int64_t outer = 1;
  std::int64_t inner_bytes = 0;  ///< bytes per unit of the partitioned dimension
};

/// Blocks that travel round the ring: after k advances the current block is that of rank
/// (rank - k) mod size. Collective: every rank of the communicator makes the same calls. Must be
/// destroyed before its communicator.
class RingRotation {
 public:
  virtual ~RingRotation() = default;
  /// Rank whose block is current.
  [[nodiscard]] virtual int source() const = 0;
  /// The current block, read-only, valid until the next advance().
  [[nodiscard]] virtual const Tensor& current() const = 0;
  /// Starts bringing the next block while the current one is in use. At most one in flight: a
  /// second call before advance() does nothing. Where blocks are read in place there is nothing to
  /// start.
  virtual void prefetch() = 0;
  /// Waits for the next block and makes it current. Throws CommunicationError past the deadline.
  virtual void advance() = 0;
};

/// A group of ranks that call the same operations in the same order. Every wait has a deadline,
/// after which CommunicationError names the operation and the peers that did not come. Sums run in
/// rank order in f32, on whichever rank computes them, so all ranks hold the same bits; only the
/// order is a library's own where one adds up on GPUs.
///
/// A communicator that threw CommunicationError is of no further use: later calls throw, too, and
/// peers are told where the transport can.
class Communicator {
 public:
  Communicator() = default;
  virtual ~Communicator() = default;
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  [[nodiscard]] virtual int rank() const = 0;
  [[nodiscard]] virtual int size() const = 0;
  /// "single", "shared memory", "MPI", "shared memory within 2 nodes, MPI across", ...
  [[nodiscard]] virtual std::string description() const = 0;

  /// A tensor in memory that the transport moves without an extra copy (a window that all ranks of
  /// the node map), aligned to pages. Released buffers are reused, so repeating a step's sequence
  /// maps nothing new. Any tensor may be passed to the collectives; others are staged. Every rank
  /// that will use the tensor in a collective allocates one. Throws OutOfMemoryError.
  [[nodiscard]] virtual Tensor allocate(const Shape& shape, DType dtype, Device device) = 0;
  /// What allocate() and staging hold of memory outside the devices' own allocators.
  [[nodiscard]] virtual MemoryCounters memory() const { return {}; }
  /// Sets the peaks of memory() to the present values.
  virtual void reset_memory_peaks() {}

  /// x = sum of the ranks' x, contiguous, f32, bf16 or f16.
  void all_reduce(const Tensor& x);
  /// full = the ranks' shards side by side along `dimension`, rank r's extent being
  /// partition.share(r). Both contiguous, of any dtype.
  void all_gather(const Tensor& shard, const Tensor& full, int dimension,
                  const Partition& partition);
  /// shard = this rank's part along `dimension` of the sum of the ranks' full. `full` is left as it
  /// was. Both contiguous.
  void reduce_scatter(const Tensor& full, const Tensor& shard, int dimension,
                      const Partition& partition);
  /// Any dtype, contiguous.
  void broadcast(const Tensor& x, int root);
  void barrier();
  /// Sends `own` (contiguous, same shape and dtype on every rank, best from allocate()) round the
  /// ring. `own` must stay untouched until the rotation is destroyed, which waits for the peers
  /// that read it.
  [[nodiscard]] std::unique_ptr<RingRotation> rotate(const Tensor& own);

  /// The communicators of the ranks that pass the same `color`, ranked by `key`, then by rank here.
  /// Collective. They do not need this one to live on.
  [[nodiscard]] virtual std::unique_ptr<Communicator> split(int color, int key) = 0;

  /// Tells the peers, where the transport can, that this rank will not go on: their present or next
  /// call throws with the reason. Destroying a communicator while an exception passes does the
  /// same.
  virtual void give_up(const std::string& reason) noexcept { static_cast<void>(reason); }

  /// Makes every collective take at least as long as on that link. Parts made by split() before or
  /// after have their own.
  void emulate_link(const LinkEmulation& link) noexcept { link_ = link; }
  [[nodiscard]] const LinkEmulation& emulated_link() const noexcept { return link_; }

  [[nodiscard]] const CommunicationCounters& counters() const noexcept { return counters_; }
  void reset_counters() noexcept { counters_ = {}; }

 protected:
  /// Whether the collectives below take tensors of that device. Others are staged through the host.
  [[nodiscard]] virtual bool serves(Device device) const { return is_host(device); }

  // Arguments are checked; a size of 1 and empty tensors never get here, empty shards may.
  virtual void do_all_reduce(const Tensor& x) = 0;
  virtual void do_all_gather(const Tensor& shard, const Tensor& full,
                             const PartitionedLayout& layout, const Partition& partition) = 0;
  virtual void do_reduce_scatter(const Tensor& full, const Tensor& shard,
                                 const PartitionedLayout& layout, const Partition& partition) = 0;
  virtual void do_broadcast(const Tensor& x, int root) = 0;
  virtual void do_barrier() = 0;
  virtual std::unique_ptr<RingRotation> do_rotate(const Tensor& own) = 0;

  /// Every rank's `own` (of one size) in rank order; not counted.
  [[nodiscard]] std::vector<std::byte> exchange(std::span<const std::byte> own);

 private:
  friend class CallTimer;
  LinkEmulation link_;
  CommunicationCounters counters_{};
};

/// Dense memory for a tensor that no window holds: from the device's allocator, or, on host devices
/// without a backend, from the heap.
[[nodiscard]] Tensor allocate_private(const Shape& shape, DType dtype, Device device);

/// The communicator of one rank: collectives are copies or nothing.
[[nodiscard]] std::unique_ptr<Communicator> make_single_communicator();

}  // namespace portolan
