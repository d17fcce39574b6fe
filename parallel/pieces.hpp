// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>

#include "parallel/communicator.hpp"
#include "parallel/partition.hpp"

/// Where a rank's part of a partitioned tensor lies. Transports treat the part, [outer, share,
/// inner], as one dense run of bytes (as the shard is stored) and cut that run into chunks; in the
/// full tensor, [outer, extent, inner], the run is strided.
namespace portolan {

[[nodiscard]] inline std::int64_t part_bytes(const PartitionedLayout& layout,
                                             const Partition& partition, int part) {
  return layout.outer * partition.share(part) * layout.inner_bytes;
}

[[nodiscard]] inline std::int64_t full_bytes(const PartitionedLayout& layout,
                                             const Partition& partition) {
  return layout.outer * partition.extent() * layout.inner_bytes;
}

/// Calls visit(offset in the full tensor, offset in the part, bytes) for the contiguous pieces that
/// make up bytes [begin, end) of a part, in order.
template <typename Visit>
void for_each_piece(const PartitionedLayout& layout, const Partition& partition, int part,
                    std::int64_t begin, std::int64_t end, const Visit& visit) {
  const std::int64_t row = partition.share(part) * layout.inner_bytes;
  const std::int64_t full_row = partition.extent() * layout.inner_bytes;
  const std::int64_t first = partition.offset(part) * layout.inner_bytes;
  while (begin < end) {
    const std::int64_t outer = begin / row;
    const std::int64_t within = begin % row;
    const std::int64_t bytes = std::min(row - within, end - begin);
    visit(outer * full_row + first + within, begin, bytes);
    begin += bytes;
  }
}

}  // namespace portolan
