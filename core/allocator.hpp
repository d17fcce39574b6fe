// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

namespace portolan {

/// What an allocator has handed out and holds, in bytes. `allocated` counts what callers asked for,
/// rounded up to the alignment; `reserved` what was taken from the device, cached blocks included.
struct MemoryCounters {
  std::int64_t allocated = 0;
  std::int64_t allocated_peak = 0;
  std::int64_t reserved = 0;
  std::int64_t reserved_peak = 0;

  MemoryCounters& operator+=(const MemoryCounters& other) noexcept {
    allocated += other.allocated;
    allocated_peak += other.allocated_peak;
    reserved += other.reserved;
    reserved_peak += other.reserved_peak;
    return *this;
  }
};

/// Where an allocator gets its segments from: a device's raw allocation.
struct MemorySource {
  std::function<void*(std::size_t bytes)> allocate;  ///< throws OutOfMemoryError
  std::function<void(void* address, std::size_t bytes)> release;
  /// Optional: makes a segment larger or smaller where it lies. False if it cannot; it is then as
  /// it was.
  std::function<bool(void* address, std::size_t bytes, std::size_t new_bytes)> resize = {};
};

class CachingAllocator;

/// A reference-counted piece of an allocator's segment, or of memory that somebody else owns.
class MemoryBlock {
 public:
  [[nodiscard]] std::byte* data() const noexcept { return data_; }
  [[nodiscard]] std::size_t bytes() const noexcept { return bytes_; }

 private:
  friend class CachingAllocator;
  friend class BlockReference;

  std::byte* data_ = nullptr;
  std::size_t bytes_ = 0;            // extent of the block, a multiple of the alignment
  MemoryBlock* previous_ = nullptr;  // neighbours by address within the segment
  MemoryBlock* next_ = nullptr;
  bool free_ = false;
  std::function<void()> on_release_;   // for borrowed memory with an owner
  CachingAllocator* owner_ = nullptr;  // null for borrowed memory
  std::atomic<int> references_{0};
};

/// Shared ownership of a MemoryBlock; the last one returns it to its allocator.
class BlockReference {
 public:
  BlockReference() = default;
  explicit BlockReference(MemoryBlock* block);
  BlockReference(const BlockReference& other) : BlockReference(other.block_) {}
  BlockReference(BlockReference&& other) noexcept : block_(std::exchange(other.block_, nullptr)) {}
  BlockReference& operator=(BlockReference other) noexcept {
    std::swap(block_, other.block_);
    return *this;
  }
  ~BlockReference();

  /// Memory that stays valid by other means (`on_release` may be empty, or drops the owner).
  static BlockReference borrow(void* data, std::size_t bytes,
                               std::function<void()> on_release = {});

  [[nodiscard]] MemoryBlock* get() const noexcept { return block_; }
  explicit operator bool() const noexcept { return block_ != nullptr; }

 private:
  MemoryBlock* block_ = nullptr;
};

/// Best-fit allocator with splitting and coalescing over large segments, which it keeps until
/// release_cached(). A request that nothing fits makes the last segment larger if its source can:
/// memory of shapes that came before then joins with the new for shapes to come, and what is
/// reserved stays near the peak of what was allocated. Repeating a sequence of requests touches the
/// device no more, so the steady state of inference allocates nothing. Requests of the same
/// sequence get the same addresses. Thread-safe; not meant for many small objects.
class CachingAllocator {
 public:
  /// Alignment of every block: a cache line pair, wide enough for any vector load.
  static constexpr std::size_t kAlignment = 128;
  /// Segments are whole multiples of this: the size of a huge page on x86 and ARM servers.
  static constexpr std::size_t kSegmentGranularity = std::size_t{2} << 20;

  explicit CachingAllocator(MemorySource source);
  ~CachingAllocator();
  CachingAllocator(const CachingAllocator&) = delete;
  CachingAllocator& operator=(const CachingAllocator&) = delete;

  /// A block of at least `bytes`, uninitialised: of the pool in use, if there is one. Throws
  /// OutOfMemoryError. The memory source outlives all blocks, and so does the allocator.
  [[nodiscard]] BlockReference allocate(std::size_t bytes);

  /// Gives free memory at the ends of segments back to the device, and wholly free segments.
  void release_cached();

  [[nodiscard]] MemoryCounters counters() const;
  /// Sets the peaks to the present values.
  void reset_peaks();

 private:
  friend class BlockReference;
  friend class MemoryPool;

  struct Segment {
    void* address = nullptr;
    std::size_t bytes = 0;
    MemoryBlock* first = nullptr;
  };

  [[nodiscard]] BlockReference allocate_own(std::size_t bytes);
  void recycle(MemoryBlock* block) noexcept;
  MemoryBlock* new_block();
  void split(MemoryBlock* block, std::size_t bytes);
  void absorb_next(MemoryBlock* block) noexcept;
  void release_cached_locked();
  void trim(Segment& segment);
  MemoryBlock* free_block_of_new_memory(std::size_t bytes);
  MemoryBlock* extend_last_segment(std::size_t bytes);
  MemoryBlock* add_segment(std::size_t bytes);
  bool resize(Segment& segment, std::size_t bytes);
  [[nodiscard]] static MemoryBlock* last_block(const Segment& segment);

  MemorySource source_;
  mutable std::mutex mutex_;
  std::vector<Segment> segments_;
  std::vector<std::unique_ptr<MemoryBlock>> blocks_;  // all block records ever made
  std::vector<MemoryBlock*> spare_;                   // records not in use
  std::vector<MemoryBlock*> free_;                    // free blocks of all segments
  MemoryCounters counters_;
  std::atomic<CachingAllocator*> substitute_{nullptr};  // that of the pool in use
};

/// Memory of an allocator that is set apart: what recorded work writes in passing must not be
/// anybody else's between its starts. Counts as allocated from the allocator, which must outlive
/// the pool, as the pool must outlive what was allocated from it.
class MemoryPool {
 public:
  explicit MemoryPool(CachingAllocator& allocator);
  MemoryPool(const MemoryPool&) = delete;
  MemoryPool& operator=(const MemoryPool&) = delete;

  /// As long as this lives, what is asked of the allocator comes from the pool. One at a time.
  class Use {
   public:
    explicit Use(MemoryPool& pool);
    ~Use();
    Use(const Use&) = delete;
    Use& operator=(const Use&) = delete;

   private:
    CachingAllocator& allocator_;
  };

 private:
  CachingAllocator& allocator_;
  std::vector<BlockReference> segments_;
  CachingAllocator own_;
};

}  // namespace portolan
