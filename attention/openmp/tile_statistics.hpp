// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <mutex>

#include "attention/openmp/query_tiles.hpp"
#include "attention/problem.hpp"

namespace portolan::flash {

/// Adds up the statistics of threads, if the problem asks for them.
class TileStatistics {
 public:
  TileStatistics(const AttentionProblem& problem, int tile_rows) : sum_(problem.statistics) {
    if (sum_ == nullptr) return;
    sum_->query_tile = tokens_of_tile(problem, tile_rows);
    sum_->key_tile = kKeyTile;
  }

  void add(const AttentionStatistics& of_thread) {
    if (sum_ == nullptr) return;
    const std::lock_guard lock(mutex_);
    sum_->tiles_visited += of_thread.tiles_visited;
    sum_->tiles_compared += of_thread.tiles_compared;
  }

 private:
  AttentionStatistics* sum_;
  std::mutex mutex_;
};

}  // namespace portolan::flash
