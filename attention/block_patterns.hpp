// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "attention/problem.hpp"

/// Block maps of common sparse patterns (Child et al. 2019, arXiv:1904.10509; Beltagy et al. 2020,
/// arXiv:2004.05150; Zaheer et al. 2020, arXiv:2007.14062). They say which blocks are looked at;
/// causality and windows still hide scores inside of them.
namespace portolan {

/// The blocks of a problem's scores. Queries end where the keys end, as masks without runs have it;
/// a block row's diagonal is the blocks that hold its queries' own positions.
struct BlockGrid {
  std::int64_t heads = 1;
  std::int64_t query_tokens = 0;
  std::int64_t key_tokens = 0;
  std::int64_t block_queries = 64;
  std::int64_t block_keys = 64;
};

/// The diagonal and `neighbours` blocks on either side of it.
[[nodiscard]] BlockMap local_blocks(const BlockGrid& grid, std::int64_t neighbours);

/// The diagonal and every `stride`-th block before and behind it.
[[nodiscard]] BlockMap strided_blocks(const BlockGrid& grid, std::int64_t stride);

/// The first `columns` blocks of keys, seen by all queries, and the diagonals of those blocks,
/// whose queries see all keys.
[[nodiscard]] BlockMap global_blocks(const BlockGrid& grid, std::int64_t columns);

/// The blocks of either; both of one grid.
[[nodiscard]] BlockMap united(const BlockMap& a, const BlockMap& b);

}  // namespace portolan
