// SPDX-License-Identifier: Apache-2.0
#include "core/allocator.hpp"

#include <algorithm>
#include <limits>

#include "core/error.hpp"

namespace portolan {
namespace {

constexpr std::size_t round_up(std::size_t value, std::size_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

}  // namespace

BlockReference::BlockReference(MemoryBlock* block) : block_(block) {
  if (block_ != nullptr) block_->references_.fetch_add(1, std::memory_order_relaxed);
}

BlockReference::~BlockReference() {
  if (block_ == nullptr) return;
  if (block_->references_.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
  if (block_->owner_ != nullptr) {
    block_->owner_->recycle(block_);
  } else {
    const std::unique_ptr<MemoryBlock> record(block_);
    if (record->on_release_) record->on_release_();
  }
}

BlockReference BlockReference::borrow(void* data, std::size_t bytes,
                                      std::function<void()> on_release) {
  auto record = std::make_unique<MemoryBlock>();
  record->data_ = static_cast<std::byte*>(data);
  record->bytes_ = bytes;
  record->on_release_ = std::move(on_release);
  return BlockReference(record.release());
}

CachingAllocator::CachingAllocator(MemorySource source) : source_(std::move(source)) {}

CachingAllocator::~CachingAllocator() {
  for (const Segment& segment : segments_) source_.release(segment.address, segment.bytes);
}

MemoryBlock* CachingAllocator::new_block() {
  if (spare_.empty()) {
    blocks_.push_back(std::make_unique<MemoryBlock>());
    blocks_.back()->owner_ = this;
    // Later pushes happen in recycle(), which must not throw.
    spare_.reserve(blocks_.size());
    free_.reserve(blocks_.size());
    return blocks_.back().get();
  }
  MemoryBlock* block = spare_.back();
  spare_.pop_back();
  return block;
}

MemoryBlock* CachingAllocator::last_block(const Segment& segment) {
  MemoryBlock* block = segment.first;
  while (block->next_ != nullptr) block = block->next_;
  return block;
}

bool CachingAllocator::resize(Segment& segment, std::size_t bytes) {
  if (!source_.resize || !source_.resize(segment.address, segment.bytes, bytes)) return false;
  counters_.reserved += static_cast<std::int64_t>(bytes) - static_cast<std::int64_t>(segment.bytes);
  counters_.reserved_peak = std::max(counters_.reserved_peak, counters_.reserved);
  segment.bytes = bytes;
  return true;
}

MemoryBlock* CachingAllocator::extend_last_segment(std::size_t bytes) {
  if (segments_.empty()) return nullptr;
  Segment& segment = segments_.back();
  MemoryBlock* last = last_block(segment);
  const std::size_t missing = bytes - (last->free_ ? last->bytes_ : 0);
  const std::size_t before = segment.bytes;
  if (!resize(segment, before + round_up(missing, kSegmentGranularity))) return nullptr;
  if (last->free_) {
    last->bytes_ += segment.bytes - before;
    return last;
  }
  MemoryBlock* block = new_block();
  block->data_ = static_cast<std::byte*>(segment.address) + before;
  block->bytes_ = segment.bytes - before;
  block->previous_ = last;
  block->next_ = nullptr;
  block->free_ = true;
  last->next_ = block;
  free_.push_back(block);
  return block;
}

MemoryBlock* CachingAllocator::free_block_of_new_memory(std::size_t bytes) {
  if (MemoryBlock* block = extend_last_segment(bytes)) return block;
  try {
    return add_segment(bytes);
  } catch (const OutOfMemoryError&) {
    release_cached_locked();
    return add_segment(bytes);
  }
}

MemoryBlock* CachingAllocator::add_segment(std::size_t bytes) {
  const std::size_t segment_bytes = round_up(bytes, kSegmentGranularity);
  void* address = source_.allocate(segment_bytes);
  MemoryBlock* block = new_block();
  block->data_ = static_cast<std::byte*>(address);
  block->bytes_ = segment_bytes;
  block->previous_ = nullptr;
  block->next_ = nullptr;
  block->free_ = true;
  segments_.push_back({address, segment_bytes, block});
  free_.push_back(block);
  counters_.reserved += static_cast<std::int64_t>(segment_bytes);
  counters_.reserved_peak = std::max(counters_.reserved_peak, counters_.reserved);
  return block;
}

void CachingAllocator::split(MemoryBlock* block, std::size_t bytes) {
  if (block->bytes_ == bytes) return;
  MemoryBlock* rest = new_block();
  rest->data_ = block->data_ + bytes;
  rest->bytes_ = block->bytes_ - bytes;
  rest->previous_ = block;
  rest->next_ = block->next_;
  if (rest->next_ != nullptr) rest->next_->previous_ = rest;
  rest->free_ = true;
  block->next_ = rest;
  block->bytes_ = bytes;
  free_.push_back(rest);
}

BlockReference CachingAllocator::allocate(std::size_t bytes) {
  CachingAllocator* const substitute = substitute_.load(std::memory_order_acquire);
  return substitute == nullptr ? allocate_own(bytes) : substitute->allocate_own(bytes);
}

BlockReference CachingAllocator::allocate_own(std::size_t bytes) {
  // More than any address space has; rounded up it could become little.
  if (bytes > std::numeric_limits<std::size_t>::max() / 2) {
    throw OutOfMemoryError(fmt::format("{} bytes cannot be addressed", bytes));
  }
  const std::size_t wanted = round_up(std::max<std::size_t>(bytes, 1), kAlignment);
  const std::lock_guard lock(mutex_);
  MemoryBlock* best = nullptr;
  for (MemoryBlock* candidate : free_) {
    if (candidate->bytes_ < wanted) continue;
    if (best == nullptr || candidate->bytes_ < best->bytes_ ||
        (candidate->bytes_ == best->bytes_ && candidate->data_ < best->data_)) {
      best = candidate;
    }
  }
  if (best == nullptr) best = free_block_of_new_memory(wanted);
  split(best, wanted);
  std::erase(free_, best);
  best->free_ = false;
  counters_.allocated += static_cast<std::int64_t>(wanted);
  counters_.allocated_peak = std::max(counters_.allocated_peak, counters_.allocated);
  return BlockReference(best);
}

void CachingAllocator::absorb_next(MemoryBlock* block) noexcept {
  MemoryBlock* next = block->next_;
  block->bytes_ += next->bytes_;
  block->next_ = next->next_;
  if (block->next_ != nullptr) block->next_->previous_ = block;
  spare_.push_back(next);
}

void CachingAllocator::recycle(MemoryBlock* block) noexcept {
  const std::lock_guard lock(mutex_);
  counters_.allocated -= static_cast<std::int64_t>(block->bytes_);
  block->free_ = true;
  if (block->next_ != nullptr && block->next_->free_) {
    std::erase(free_, block->next_);
    absorb_next(block);
  }
  if (block->previous_ != nullptr && block->previous_->free_) {
    absorb_next(block->previous_);
    return;
  }
  free_.push_back(block);
}

void CachingAllocator::trim(Segment& segment) {
  MemoryBlock* last = last_block(segment);
  if (!last->free_) return;
  const std::size_t kept = round_up(segment.bytes - last->bytes_, kSegmentGranularity);
  const std::size_t removed = segment.bytes - kept;
  if (removed == 0 || !resize(segment, kept)) return;
  last->bytes_ -= removed;
  if (last->bytes_ > 0) return;
  last->previous_->next_ = nullptr;
  std::erase(free_, last);
  spare_.push_back(last);
}

void CachingAllocator::release_cached_locked() {
  const auto is_free = [](const Segment& segment) {
    return segment.first->free_ && segment.first->next_ == nullptr;
  };
  for (Segment& segment : segments_) {
    if (!is_free(segment)) trim(segment);
  }
  std::erase_if(segments_, [&](const Segment& segment) {
    if (!is_free(segment)) return false;
    MemoryBlock* block = segment.first;
    std::erase(free_, block);
    spare_.push_back(block);
    source_.release(segment.address, segment.bytes);
    counters_.reserved -= static_cast<std::int64_t>(segment.bytes);
    return true;
  });
}

void CachingAllocator::release_cached() {
  const std::lock_guard lock(mutex_);
  release_cached_locked();
}

MemoryCounters CachingAllocator::counters() const {
  const std::lock_guard lock(mutex_);
  return counters_;
}

void CachingAllocator::reset_peaks() {
  const std::lock_guard lock(mutex_);
  counters_.allocated_peak = counters_.allocated;
  counters_.reserved_peak = counters_.reserved;
}

MemoryPool::MemoryPool(CachingAllocator& allocator)
    : allocator_(allocator),
      own_({.allocate = [this](std::size_t bytes) -> void* {
              segments_.push_back(allocator_.allocate_own(bytes));
              return segments_.back().get()->data();
            },
            .release =
                [this](void* address, std::size_t /*bytes*/) {
                  std::erase_if(segments_, [address](const BlockReference& segment) {
                    return segment.get()->data() == address;
                  });
                }}) {}

MemoryPool::Use::Use(MemoryPool& pool) : allocator_(pool.allocator_) {
  CachingAllocator* none = nullptr;
  if (!allocator_.substitute_.compare_exchange_strong(none, &pool.own_)) {
    throw Error("another memory pool of this device is in use");
  }
}

MemoryPool::Use::~Use() { allocator_.substitute_.store(nullptr, std::memory_order_release); }

}  // namespace portolan
