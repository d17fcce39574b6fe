// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "attention/openmp/query_tiles.hpp"
#include "attention/openmp/tile_mask.hpp"
#include "attention/problem.hpp"

namespace portolan::flash {

/// Sets the bit of each weight of a tile that dropout keeps, by dropout_words(). Rows beyond those
/// of the tile are left as they are; columns beyond the keys get any value.
void find_kept(const AttentionDropout& dropout, const HeadGroup& heads, const QueryTile& queries,
               const RowTile& keys, TileBits& kept);

}  // namespace portolan::flash
