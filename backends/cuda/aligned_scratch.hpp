// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/allocator.hpp"

namespace portolan::cuda {

/// Scratch of kernels and libraries that ask for more alignment than an allocator's blocks have.
/// No header of CUDA, so that it can be checked without a GPU.
class AlignedScratch {
 public:
  /// What attention's kernels ask of their workspace, and cuBLASLt's algorithms for Hopper of
  /// theirs.
  static constexpr std::size_t kAlignment = 256;

  AlignedScratch() = default;
  /// Nothing if no bytes are wanted.
  AlignedScratch(CachingAllocator& allocator, std::size_t bytes) {
    if (bytes == 0) return;
    block_ = allocator.allocate(bytes + kAlignment);
    const auto address = reinterpret_cast<std::uintptr_t>(block_.get()->data());
    data_ = block_.get()->data() + (kAlignment - address % kAlignment) % kAlignment;
  }

  [[nodiscard]] void* data() const noexcept { return data_; }

 private:
  BlockReference block_;
  void* data_ = nullptr;
};

}  // namespace portolan::cuda
