// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "apps/attention_pass.hpp"
#include "attention/tiles.hpp"

/// Search for the tile sizes with which attention is fastest on this machine. They change no bit of
/// any result, so that what the clock chooses stays reproducible.
namespace portolan {

/// Less is not told from noise.
inline constexpr double kWorthwhileGain = 0.02;

struct TileCandidate {
  AttentionTiles tiles = {};
  /// Over that of the first candidate of its pass and field: median over rounds, mean over lengths.
  double relative_time = 1.0;
};

struct TileSearch {
  AttentionTiles best = {};
  std::vector<TileCandidate> candidates = {};  ///< in the order of measuring
};

/// For the dtype, head_dim, batch and heads of `shape`, one size after the other: block and forward
/// chunk by the forward pass, backward chunk by the backward pass. All candidates for a size run in
/// turns, once a round, at each of `lengths`. One replaces the built-in size if it is faster by
/// more than kWorthwhileGain. Throws UnsupportedError where no flash kernel serves the shape.
[[nodiscard]] TileSearch search_attention_tiles(const AttentionBenchmarkCase& shape,
                                                const std::vector<std::int64_t>& lengths,
                                                int rounds, Device device);

}  // namespace portolan
