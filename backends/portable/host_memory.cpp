// SPDX-License-Identifier: Apache-2.0
#include "backends/portable/host_memory.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>

#include "core/error.hpp"
#include "core/memory_info.hpp"

namespace portolan {
namespace {

constexpr std::size_t kHugePage = std::size_t{2} << 20;

/// Ranges of addresses that no memory stands behind yet, of which the first part is in use.
/// Addresses are plentiful, so each range may grow to all of the machine's memory.
class AddressRanges {
 public:
  ~AddressRanges() {
    for (const auto& [address, range] : ranges_) munmap(range.mapping, range.mapped_bytes);
  }

  void* allocate(std::size_t bytes) {
    Range range = reserve(std::max(bytes, physical_memory()));
    // A limit on address space (ulimit -v): then no more than asked for, and no growing.
    if (range.mapping == MAP_FAILED) range = reserve(bytes);
    if (range.mapping == MAP_FAILED) refuse(bytes);
    auto* const first = static_cast<std::byte*>(range.mapping);
    const auto misplaced = reinterpret_cast<std::uintptr_t>(first) % kHugePage;
    std::byte* const address = first + (misplaced == 0 ? 0 : kHugePage - misplaced);
    range.end = first + range.mapped_bytes;
    if (!commit(address, bytes)) {
      munmap(range.mapping, range.mapped_bytes);
      refuse(bytes);
    }
    ranges_[address] = range;
    return address;
  }

  void release(void* address) {
    const auto range = ranges_.find(address);
    munmap(range->second.mapping, range->second.mapped_bytes);
    ranges_.erase(range);
  }

  bool resize(void* address, std::size_t bytes, std::size_t new_bytes) {
    auto* const begin = static_cast<std::byte*>(address);
    if (new_bytes > static_cast<std::size_t>(ranges_.at(address).end - begin)) return false;
    if (new_bytes > bytes) return commit(begin + bytes, new_bytes - bytes);
    // Mapping anew gives the pages back and takes the range out of the system's accounts.
    return mmap(begin + new_bytes, bytes - new_bytes, PROT_NONE,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) != MAP_FAILED;
  }

 private:
  struct Range {
    void* mapping = nullptr;
    std::size_t mapped_bytes = 0;
    std::byte* end = nullptr;
  };

  static Range reserve(std::size_t bytes) {
    const std::size_t mapped = bytes + kHugePage;  // to be aligned
    return {mmap(nullptr, mapped, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0),
            mapped, nullptr};
  }

  static bool commit(void* address, std::size_t bytes) {
    if (mprotect(address, bytes, PROT_READ | PROT_WRITE) != 0) return false;
    madvise(address, bytes, MADV_HUGEPAGE);
    return true;
  }

  [[noreturn]] static void refuse(std::size_t bytes) {
    throw OutOfMemoryError(fmt::format("the system has no {:.3f} GB of memory left ({})",
                                       static_cast<double>(bytes) * 1e-9, std::strerror(errno)));
  }

  std::map<void*, Range> ranges_;
};

}  // namespace

MemorySource host_memory_source() {
  const auto ranges = std::make_shared<AddressRanges>();
  return {.allocate = [ranges](std::size_t bytes) { return ranges->allocate(bytes); },
          .release = [ranges](void* address, std::size_t) { ranges->release(address); },
          .resize =
              [ranges](void* address, std::size_t bytes, std::size_t new_bytes) {
                return ranges->resize(address, bytes, new_bytes);
              }};
}

}  // namespace portolan
