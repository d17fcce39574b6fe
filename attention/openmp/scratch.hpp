// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>

#include "core/allocator.hpp"

namespace portolan::flash {

/// Lays parts of scratch memory one behind the other, each aligned as the allocator aligns.
class ScratchLayout {
 public:
  /// Where a part of that many bytes starts.
  std::size_t place(std::size_t bytes) {
    constexpr std::size_t kAlignment = CachingAllocator::kAlignment;
    const std::size_t begin = used_;
    used_ += (bytes + kAlignment - 1) / kAlignment * kAlignment;
    return begin;
  }
  [[nodiscard]] std::size_t bytes() const { return used_; }

 private:
  std::size_t used_ = 0;
};

}  // namespace portolan::flash
