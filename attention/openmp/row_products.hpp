// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "attention/openmp/tile_operations.hpp"

/// The products of a tile for few queries, as in decoding: they read keys and values where they
/// are, once, since with few queries that takes longer than all arithmetic. `ahead` are the rows
/// that will be read next: they are often in pages of their own, and so beyond what the processor
/// fetches by itself.
namespace portolan::flash {

/// scores[row][i] = queries[row] . keys[i], rows of `query_stride` and kKeyTile elements. Up to the
/// next multiple of 4 scores of keys that do not exist get any value.
void row_scores(const float* queries, int query_stride, int rows, const SourceRows& keys,
                const SourceRows& ahead, float* scores);

/// out[row][:] += sum over i of weights[row][i] * values[i], rows of kKeyTile and `out_stride`
/// elements.
void accumulate_rows(const float* weights, int rows, const SourceRows& values,
                     const SourceRows& ahead, int out_stride, float* out);

}  // namespace portolan::flash
