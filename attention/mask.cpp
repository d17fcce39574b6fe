// SPDX-License-Identifier: Apache-2.0
#include "attention/mask.hpp"

#include <algorithm>

namespace portolan {

std::vector<TokenRun> resolved_key_runs(const AttentionMask& mask, std::int64_t key_tokens) {
  if (!mask.key_runs.empty()) return mask.key_runs;
  return {TokenRun{0, key_tokens}};
}

std::vector<TokenRun> resolved_query_runs(const AttentionMask& mask, std::int64_t query_tokens,
                                          std::int64_t key_tokens) {
  if (!mask.query_runs.empty()) return mask.query_runs;
  const std::vector<TokenRun> keys = resolved_key_runs(mask, key_tokens);
  std::int64_t end = keys.front().position + keys.front().length;
  for (const TokenRun& run : keys) end = std::max(end, run.position + run.length);
  return {TokenRun{end - query_tokens, query_tokens}};
}

std::int64_t visible_scores(const AttentionMask& mask, std::int64_t query_tokens,
                            std::int64_t key_tokens) {
  const MaskRule rule(mask);
  const std::vector<TokenRun> keys = resolved_key_runs(mask, key_tokens);
  std::int64_t scores = 0;
  for (const TokenRun& queries : resolved_query_runs(mask, query_tokens, key_tokens)) {
    for (std::int64_t i = 0; i < queries.length; ++i) {
      const std::int64_t query = queries.position + i;
      for (const TokenRun& run : keys) {
        const std::int64_t first = rule.first_key(query, run.position);
        const std::int64_t end = rule.end_key(query, run.position + run.length);
        scores += std::max<std::int64_t>(0, end - first);
      }
    }
  }
  return scores;
}

std::vector<RowTile> split_runs(std::span<const TokenRun> runs, std::int64_t tile) {
  std::vector<RowTile> tiles;
  std::int64_t row = 0;
  for (const TokenRun& run : runs) {
    for (std::int64_t begin = 0; begin < run.length; begin += tile) {
      tiles.push_back({row + begin, run.position + begin, std::min(tile, run.length - begin)});
    }
    row += run.length;
  }
  return tiles;
}

}  // namespace portolan
