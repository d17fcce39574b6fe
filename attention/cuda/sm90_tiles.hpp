// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "core/dtype.hpp"

/// The order in which blocks of threads take tiles of the score matrix: arithmetic without any
/// device code.
namespace portolan::cuda::sm90 {

[[nodiscard]] PORTOLAN_HOST_DEVICE constexpr int smaller(int a, int b) { return a < b ? a : b; }
[[nodiscard]] PORTOLAN_HOST_DEVICE constexpr int divide_up(int a, int b) { return (a + b - 1) / b; }

/// Order in which the forward pass takes its tiles, one query tile of one head each: heads in
/// sections whose keys and values stay in the L2 cache together; in a section the last query tiles
/// of all its heads first, which under a causal mask are the longest, so that what is left at the
/// end is short.
struct TileOrder {
  int query_tiles = 0;    ///< of each head
  int heads = 0;          ///< of all batch entries together
  int section_heads = 1;  ///< heads of a section; the last section may have fewer

  struct Tile {
    int head = 0;  ///< counted through the batch entries
    int query_tile = 0;
  };

  [[nodiscard]] PORTOLAN_HOST_DEVICE constexpr int tiles() const { return query_tiles * heads; }
  /// The tile taken as number `index`, from 0 to tiles() - 1.
  [[nodiscard]] PORTOLAN_HOST_DEVICE constexpr Tile operator[](int index) const {
    const int section_tiles = section_heads * query_tiles;
    const int section = index / section_tiles;
    const int rest = index - section * section_tiles;
    const int first_head = section * section_heads;
    const int count = smaller(section_heads, heads - first_head);
    return {first_head + rest % count, query_tiles - 1 - rest / count};
  }
};

/// Query heads of a section: those of as many key heads as fit into `cache_bytes`, at least one.
[[nodiscard]] constexpr int heads_in_section(std::int64_t key_tokens, std::int64_t head_dim,
                                             std::int64_t heads_per_key_head, std::int64_t heads,
                                             std::int64_t cache_bytes) {
  const std::int64_t key_head_bytes = key_tokens * head_dim * 2 * 2;
  const std::int64_t fitting = key_head_bytes > 0 ? cache_bytes / key_head_bytes : heads;
  const std::int64_t section = (fitting > 1 ? fitting : 1) * heads_per_key_head;
  return static_cast<int>(section < heads ? section : heads);
}

}  // namespace portolan::cuda::sm90
