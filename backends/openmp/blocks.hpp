// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>

#include "backends/compat/kokkos.hpp"

namespace portolan::openmp {

/// Bytes that one block of work touches: long enough to hide the cost of handing it out, short
/// enough to stay in a core's own cache and to share evenly.
inline constexpr std::int64_t kBlockBytes = 64 * 1024;

/// Items of `bytes_per_item` that make up a block.
inline std::int64_t block_items(std::int64_t bytes_per_item) {
  return std::max<std::int64_t>(1, kBlockBytes / std::max<std::int64_t>(1, bytes_per_item));
}

/// Calls body(begin, end) for blocks of `block` items of [0, count), each thread a contiguous share
/// of the blocks. Blocks do not depend on the number of threads. A single block runs on the calling
/// thread: small work is not worth waking the others.
template <class Body>
void for_blocks(const Kokkos::OpenMP& space, const char* label, std::int64_t count,
                std::int64_t block, const Body& body) {
  if (count <= block) {
    if (count > 0) body(std::int64_t{0}, count);
    return;
  }
  const std::int64_t blocks = (count + block - 1) / block;
  Kokkos::parallel_for(label, compat::Range<Kokkos::OpenMP>(space, 0, blocks),
                       [&body, block, count](const std::int64_t index) {
                         const std::int64_t begin = index * block;
                         body(begin, std::min(begin + block, count));
                       });
}

}  // namespace portolan::openmp
