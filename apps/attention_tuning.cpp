// SPDX-License-Identifier: Apache-2.0
#include "apps/attention_tuning.hpp"

#include <algorithm>
#include <array>

#include "apps/attention_pass.hpp"
#include "apps/benchmark_samples.hpp"

namespace portolan {
namespace {

// A level 2 cache has a quarter to two MiB, and what a core has of level 3 is not much more.
constexpr std::array<std::int64_t, 5> kBlocksKib = {512, 128, 256, 1024, 2048};
constexpr std::array<std::int64_t, 5> kForwardChunks = {64, 8, 16, 32, 128};
constexpr std::array<std::int64_t, 4> kBackwardChunks = {2, 1, 4, 8};

class Search {
 public:
  Search(const AttentionBenchmarkCase& shape, const std::vector<std::int64_t>& lengths, int rounds,
         Device device)
      : shape_(shape), lengths_(lengths), rounds_(rounds), device_(device) {}

  /// Sets one field of the best tiles to the value of `values` that is worth it; the first is the
  /// built-in one.
  template <typename Values>
  void choose(AttentionPass pass, std::int64_t AttentionTiles::*field, const Values& values) {
    std::vector<TileCandidate> candidates;
    for (const std::int64_t value : values) {
      candidates.push_back({.tiles = result_.best});
      candidates.back().tiles.*field = value;
    }
    measure(pass, candidates);
    const auto fastest = std::ranges::min_element(candidates, {}, &TileCandidate::relative_time);
    if (fastest->relative_time < 1.0 - kWorthwhileGain) result_.best = fastest->tiles;
    result_.candidates.insert(result_.candidates.end(), candidates.begin(), candidates.end());
  }

  [[nodiscard]] const TileSearch& result() const { return result_; }

 private:
  void measure(AttentionPass pass, std::vector<TileCandidate>& candidates) const {
    for (TileCandidate& candidate : candidates) candidate.relative_time = 0.0;
    for (const std::int64_t length : lengths_) {
      AttentionBenchmarkCase setting = shape_;
      setting.method = AttentionMethod::flash;
      setting.pass = pass;
      setting.length = length;
      AttentionBenchmarkPass operands(setting, device_);
      std::vector<std::vector<double>> samples(candidates.size());
      for (int round = -1; round < rounds_; ++round) {
        for (std::size_t i = 0; i < candidates.size(); ++i) {
          operands.set_tiles(candidates[i].tiles);
          operands.write_operands();
          const double seconds = seconds_of(device_, [&] { operands.run(); });
          if (round >= 0) samples[i].push_back(seconds);  // the first round warms up
        }
      }
      const double built_in = summary_of(samples.front()).median;
      for (std::size_t i = 0; i < candidates.size(); ++i) {
        candidates[i].relative_time +=
            summary_of(samples[i]).median / built_in / static_cast<double>(lengths_.size());
      }
    }
  }

  AttentionBenchmarkCase shape_;
  std::vector<std::int64_t> lengths_;
  int rounds_;
  Device device_;
  TileSearch result_;
};

}  // namespace

TileSearch search_attention_tiles(const AttentionBenchmarkCase& shape,
                                  const std::vector<std::int64_t>& lengths, int rounds,
                                  Device device) {
  Search search(shape, lengths, rounds, device);
  search.choose(AttentionPass::forward, &AttentionTiles::block_kib, kBlocksKib);
  search.choose(AttentionPass::forward, &AttentionTiles::forward_chunk, kForwardChunks);
  search.choose(AttentionPass::backward, &AttentionTiles::backward_chunk, kBackwardChunks);
  return search.result();
}

}  // namespace portolan
