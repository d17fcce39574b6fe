// SPDX-License-Identifier: Apache-2.0
#include "backends/portable/host_memory.hpp"

#include <sys/mman.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "core/error.hpp"

namespace portolan {
namespace {

constexpr std::size_t kHugePage = std::size_t{2} << 20;

void* map_aligned(std::size_t bytes) {
  // Ask for one huge page more and give back what lies outside the aligned part.
  const std::size_t mapped = bytes + kHugePage;
  void* const raw =
      mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (raw == MAP_FAILED) {
    throw OutOfMemoryError(fmt::format("the system has no {:.3f} GB of memory left ({})",
                                       static_cast<double>(bytes) * 1e-9, std::strerror(errno)));
  }
  const auto address = reinterpret_cast<std::uintptr_t>(raw);
  const std::uintptr_t aligned = (address + kHugePage - 1) / kHugePage * kHugePage;
  const std::size_t before = aligned - address;
  const std::size_t after = mapped - before - bytes;
  if (before > 0) munmap(raw, before);
  if (after > 0) munmap(reinterpret_cast<void*>(aligned + bytes), after);
  void* const result = reinterpret_cast<void*>(aligned);
  if (bytes >= kHugePage) madvise(result, bytes, MADV_HUGEPAGE);
  return result;
}

}  // namespace

MemorySource host_memory_source() {
  return {.allocate = map_aligned,
          .release = [](void* address, std::size_t bytes) { munmap(address, bytes); }};
}

}  // namespace portolan
