// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "core/allocator.hpp"
#include "core/backend.hpp"
#include "core/error.hpp"

namespace portolan {
namespace {

constexpr std::size_t kUnit = CachingAllocator::kAlignment;
constexpr std::size_t kSegment = CachingAllocator::kSegmentGranularity;

/// A device with a limited memory that records what was taken from it.
class LimitedDevice {
 public:
  explicit LimitedDevice(std::size_t limit) : limit_(limit) {}

  [[nodiscard]] MemorySource source() {
    return {.allocate = [this](std::size_t bytes) { return take(bytes); },
            .release = [this](void* address, std::size_t bytes) { give_back(address, bytes); }};
  }
  [[nodiscard]] std::size_t taken() const { return taken_; }
  [[nodiscard]] int requests() const { return requests_; }

 private:
  void* take(std::size_t bytes) {
    if (taken_ + bytes > limit_) throw OutOfMemoryError("the device is full");
    void* const address = std::aligned_alloc(kUnit, bytes);
    taken_ += bytes;
    ++requests_;
    sizes_[address] = bytes;
    return address;
  }
  void give_back(void* address, std::size_t bytes) {
    EXPECT_EQ(sizes_.at(address), bytes);
    sizes_.erase(address);
    taken_ -= bytes;
    std::free(address);
  }

  std::size_t limit_;
  std::size_t taken_ = 0;
  int requests_ = 0;
  std::map<void*, std::size_t> sizes_;
};

/// A device of one segment that grows in place up to a limit.
class GrowingDevice {
 public:
  explicit GrowingDevice(std::size_t limit) : memory_(limit + kUnit) {}

  [[nodiscard]] MemorySource source() {
    return {.allocate = [this](std::size_t bytes) -> void* {
              if (in_use_ > 0 || bytes > limit()) throw OutOfMemoryError("the device is full");
              in_use_ = bytes;
              return memory_.data();
            },
            .release = [this](void*, std::size_t) { in_use_ = 0; },
            .resize =
                [this](void*, std::size_t bytes, std::size_t new_bytes) {
                  EXPECT_EQ(bytes, in_use_);
                  if (new_bytes > limit()) return false;
                  in_use_ = new_bytes;
                  return true;
                }};
  }
  [[nodiscard]] std::size_t in_use() const { return in_use_; }

 private:
  [[nodiscard]] std::size_t limit() const { return memory_.size() - kUnit; }

  std::vector<std::byte> memory_;
  std::size_t in_use_ = 0;
};

TEST(Allocator, GrowsItsSegmentByNoMoreThanItsFreeEndLacks) {
  GrowingDevice device(8 * kSegment);
  CachingAllocator allocator(device.source());
  const BlockReference kept = allocator.allocate(kSegment);
  for (const std::size_t segments : {1, 2, 4, 7}) {
    const BlockReference block = allocator.allocate(segments * kSegment);
    EXPECT_EQ(device.in_use(), (1 + segments) * kSegment);
    EXPECT_EQ(block.get()->data(), kept.get()->data() + kSegment) << "memory of earlier sizes";
  }
  EXPECT_EQ(allocator.counters().reserved, static_cast<std::int64_t>(8 * kSegment));
  EXPECT_THROW(static_cast<void>(allocator.allocate(8 * kSegment)), OutOfMemoryError);
  const BlockReference again = allocator.allocate(7 * kSegment);
  EXPECT_EQ(device.in_use(), 8 * kSegment);
}

TEST(Allocator, GivesTheFreeEndOfASegmentBack) {
  GrowingDevice device(8 * kSegment);
  CachingAllocator allocator(device.source());
  const BlockReference kept = allocator.allocate(kUnit);
  static_cast<void>(allocator.allocate(6 * kSegment));
  EXPECT_EQ(device.in_use(), 7 * kSegment);
  allocator.release_cached();
  EXPECT_EQ(device.in_use(), kSegment);
  EXPECT_EQ(allocator.counters().reserved, static_cast<std::int64_t>(kSegment));
  EXPECT_EQ(allocator.allocate(3 * kSegment).get()->data(), kept.get()->data() + kUnit);
  const BlockReference whole = allocator.allocate(kSegment - kUnit);
  static_cast<void>(allocator.allocate(2 * kSegment));
  allocator.release_cached();
  EXPECT_EQ(device.in_use(), kSegment);
  EXPECT_EQ(allocator.counters().allocated, static_cast<std::int64_t>(kSegment));
}

TEST(Allocator, CountersAreExact) {
  LimitedDevice device(100 * kSegment);
  CachingAllocator allocator(device.source());
  EXPECT_EQ(allocator.counters().reserved, 0);
  {
    const BlockReference one = allocator.allocate(1);
    const BlockReference two = allocator.allocate(kUnit + 1);
    const MemoryCounters counters = allocator.counters();
    EXPECT_EQ(counters.allocated, static_cast<std::int64_t>(3 * kUnit));
    EXPECT_EQ(counters.allocated_peak, static_cast<std::int64_t>(3 * kUnit));
    EXPECT_EQ(counters.reserved, static_cast<std::int64_t>(kSegment));
    EXPECT_EQ(device.taken(), kSegment);
    EXPECT_NE(one.get()->data(), two.get()->data());
  }
  MemoryCounters counters = allocator.counters();
  EXPECT_EQ(counters.allocated, 0);
  EXPECT_EQ(counters.allocated_peak, static_cast<std::int64_t>(3 * kUnit));
  EXPECT_EQ(counters.reserved, static_cast<std::int64_t>(kSegment));
  allocator.reset_peaks();
  allocator.release_cached();
  counters = allocator.counters();
  EXPECT_EQ(counters.allocated_peak, 0);
  EXPECT_EQ(counters.reserved, 0);
  EXPECT_EQ(counters.reserved_peak, static_cast<std::int64_t>(kSegment));
  EXPECT_EQ(device.taken(), 0U);
}

TEST(Allocator, BlocksAreAlignedAndApart) {
  LimitedDevice device(100 * kSegment);
  CachingAllocator allocator(device.source());
  std::vector<BlockReference> blocks;
  for (std::size_t bytes : {1U, 127U, 128U, 129U, 5000U}) {
    blocks.push_back(allocator.allocate(bytes));
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(blocks.back().get()->data()) % kUnit, 0U);
    EXPECT_GE(blocks.back().get()->bytes(), bytes);
    std::memset(blocks.back().get()->data(), static_cast<int>(bytes % 251), bytes);
  }
  std::size_t i = 0;
  for (std::size_t bytes : {1U, 127U, 128U, 129U, 5000U}) {
    const std::byte* const data = blocks[i++].get()->data();
    for (std::size_t b = 0; b < bytes; ++b) {
      ASSERT_EQ(static_cast<std::size_t>(data[b]), bytes % 251);
    }
  }
}

TEST(Allocator, RepeatedRequestsGetTheSameAddressesAndNoNewMemory) {
  LimitedDevice device(100 * kSegment);
  CachingAllocator allocator(device.source());
  const auto addresses = [&] {
    std::vector<std::byte*> result;
    const BlockReference a = allocator.allocate(3 * kSegment / 2);
    result.push_back(a.get()->data());
    {
      const BlockReference b = allocator.allocate(1000);
      result.push_back(b.get()->data());
    }
    const BlockReference c = allocator.allocate(kSegment);
    const BlockReference d = allocator.allocate(500);
    result.push_back(c.get()->data());
    result.push_back(d.get()->data());
    return result;
  };
  static_cast<void>(addresses());
  const int requests = device.requests();
  const auto second = addresses();
  EXPECT_EQ(addresses(), second);
  EXPECT_EQ(addresses(), second);
  EXPECT_EQ(device.requests(), requests);
}

TEST(Allocator, NeighboursCoalesceInAnyOrderOfRelease) {
  for (const std::vector<std::size_t>& order :
       {std::vector<std::size_t>{0, 1, 2, 3}, {3, 2, 1, 0}, {0, 2, 1, 3}, {1, 3, 0, 2}}) {
    LimitedDevice device(kSegment);
    CachingAllocator allocator(device.source());
    std::vector<BlockReference> blocks;
    for (int i = 0; i < 4; ++i) blocks.push_back(allocator.allocate(kSegment / 4));
    for (const std::size_t index : order) blocks[index] = BlockReference();
    // Only one free block of the whole segment can serve this: the device has no more.
    const BlockReference whole = allocator.allocate(kSegment);
    EXPECT_EQ(whole.get()->bytes(), kSegment);
    EXPECT_EQ(device.requests(), 1);
  }
}

TEST(Allocator, TakesTheSmallestBlockThatFits) {
  LimitedDevice device(4 * kSegment);
  CachingAllocator allocator(device.source());
  BlockReference large = allocator.allocate(10 * kUnit);
  const BlockReference fence = allocator.allocate(kUnit);
  BlockReference small = allocator.allocate(2 * kUnit);
  const BlockReference rest = allocator.allocate(kSegment - 13 * kUnit);
  std::byte* const address = small.get()->data();
  large = BlockReference();
  small = BlockReference();
  EXPECT_EQ(allocator.allocate(2 * kUnit).get()->data(), address);
}

TEST(Allocator, GivesCachedSegmentsBackBeforeItFails) {
  LimitedDevice device(2 * kSegment);
  CachingAllocator allocator(device.source());
  { const BlockReference first = allocator.allocate(kSegment); }
  // The cached segment is in the way of this one.
  const BlockReference second = allocator.allocate(2 * kSegment);
  EXPECT_EQ(device.taken(), 2 * kSegment);
  EXPECT_THROW(static_cast<void>(allocator.allocate(1)), OutOfMemoryError);
  EXPECT_EQ(allocator.counters().allocated, static_cast<std::int64_t>(2 * kSegment));
}

TEST(Allocator, RefusesMoreThanAnyDeviceHas) {
  LimitedDevice device(2 * kSegment);
  CachingAllocator allocator(device.source());
  for (const std::size_t bytes : {SIZE_MAX, SIZE_MAX - kUnit, SIZE_MAX - kSegment, SIZE_MAX / 2}) {
    EXPECT_THROW(static_cast<void>(allocator.allocate(bytes)), OutOfMemoryError);
  }
  EXPECT_EQ(device.taken(), 0U);
  EXPECT_EQ(allocator.counters().reserved, 0);
}

TEST(Allocator, KeepsSegmentsInUseWhenTheCacheIsReleased) {
  LimitedDevice device(100 * kSegment);
  CachingAllocator allocator(device.source());
  const BlockReference held = allocator.allocate(100);
  std::memset(held.get()->data(), 7, 100);
  { const BlockReference other = allocator.allocate(kSegment); }
  allocator.release_cached();
  EXPECT_EQ(device.taken(), kSegment);
  EXPECT_EQ(static_cast<int>(held.get()->data()[99]), 7);
}

TEST(Allocator, CopiesOfAReferenceShareTheBlock) {
  LimitedDevice device(100 * kSegment);
  CachingAllocator allocator(device.source());
  BlockReference first = allocator.allocate(100);
  BlockReference second = first;
  first = BlockReference();
  EXPECT_EQ(allocator.counters().allocated, static_cast<std::int64_t>(kUnit));
  BlockReference third = std::move(second);
  EXPECT_FALSE(static_cast<bool>(second));
  third = BlockReference();
  EXPECT_EQ(allocator.counters().allocated, 0);
}

TEST(Allocator, BorrowedMemoryTellsItsOwner) {
  int released = 0;
  std::byte data[8];
  {
    const BlockReference first =
        BlockReference::borrow(data, sizeof(data), [&released] { ++released; });
    const BlockReference second = first;
    EXPECT_EQ(second.get()->data(), data);
    EXPECT_EQ(released, 0);
  }
  EXPECT_EQ(released, 1);
}

TEST(Allocator, ThreadsNeverShareABlock) {
  LimitedDevice device(1000 * kSegment);
  CachingAllocator allocator(device.source());
  std::vector<std::thread> threads;
  std::atomic<int> clashes{0};
  for (unsigned char id = 1; id <= 4; ++id) {
    threads.emplace_back([&allocator, &clashes, id] {
      std::minstd_rand random(id);
      std::vector<BlockReference> held(8);
      for (int step = 0; step < 2000; ++step) {
        BlockReference& slot = held[random() % held.size()];
        if (slot) {
          const std::byte* const data = slot.get()->data();
          for (std::size_t i = 0; i < slot.get()->bytes(); i += 64) {
            if (data[i] != std::byte{id}) ++clashes;
          }
        }
        slot = allocator.allocate(1 + random() % 20000);
        std::memset(slot.get()->data(), id, slot.get()->bytes());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(clashes.load(), 0);
  EXPECT_EQ(allocator.counters().allocated, 0);
  allocator.release_cached();
  EXPECT_EQ(device.taken(), 0U);
}

TEST(MemoryPool, WhatIsAskedForWhileItIsInUseIsNobodyElsesLater) {
  LimitedDevice device(100 * kSegment);
  CachingAllocator allocator(device.source());
  MemoryPool pool(allocator);
  const std::byte* address = nullptr;
  {
    const MemoryPool::Use use(pool);
    address = allocator.allocate(100).get()->data();
    EXPECT_EQ(allocator.allocate(100).get()->data(), address) << "it is free within the pool";
  }
  std::vector<BlockReference> others;
  for (int i = 0; i < 100; ++i) {
    others.push_back(allocator.allocate(kSegment / 2));
    const std::byte* const begin = others.back().get()->data();
    EXPECT_FALSE(address >= begin && address < begin + kSegment / 2);
  }
  const MemoryPool::Use use(pool);
  EXPECT_EQ(allocator.allocate(100).get()->data(), address) << "the same requests, the same places";
}

TEST(MemoryPool, CountsAsAllocatedAndGivesItsMemoryBack) {
  LimitedDevice device(100 * kSegment);
  CachingAllocator allocator(device.source());
  {
    MemoryPool pool(allocator);
    {
      const MemoryPool::Use use(pool);
      const BlockReference first = allocator.allocate(kSegment);
      const BlockReference second = allocator.allocate(2 * kSegment);
      EXPECT_EQ(allocator.counters().allocated, static_cast<std::int64_t>(3 * kSegment));
    }
    EXPECT_EQ(allocator.counters().allocated, static_cast<std::int64_t>(3 * kSegment));
  }
  EXPECT_EQ(allocator.counters().allocated, 0);
  allocator.release_cached();
  EXPECT_EQ(device.taken(), 0U);
}

TEST(MemoryPool, OneIsInUseAtATime) {
  LimitedDevice device(100 * kSegment);
  CachingAllocator allocator(device.source());
  MemoryPool first(allocator);
  MemoryPool second(allocator);
  {
    const MemoryPool::Use use(first);
    EXPECT_THROW(MemoryPool::Use{second}, Error);
    EXPECT_THROW(MemoryPool::Use{first}, Error);
  }
  const MemoryPool::Use use(second);
}

TEST(Allocator, HostSegmentsAreAlignedToHugePages) {
  for (const auto& backend : registered_backends()) {
    if (!is_host(backend->device())) continue;
    // Larger than anything cached, so that it starts a segment of its own.
    const std::int64_t reserved = backend->allocator().counters().reserved;
    const BlockReference block =
        backend->allocator().allocate(static_cast<std::size_t>(reserved) + kSegment);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(block.get()->data()) % kSegment, 0U);
  }
}

}  // namespace
}  // namespace portolan
