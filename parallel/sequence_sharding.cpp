// SPDX-License-Identifier: Apache-2.0
#include "parallel/sequence_sharding.hpp"

#include <algorithm>

namespace portolan {

SequenceSharding::SequenceSharding(std::int64_t sequence_length, int ranks)
    : chunks_(Partition::even(sequence_length, 2 * ranks)) {}

SequenceSharding SequenceSharding::replicated(std::int64_t sequence_length, int ranks) {
  SequenceSharding sharding(sequence_length, ranks);
  sharding.replicated_ = true;
  return sharding;
}

std::vector<TokenRun> SequenceSharding::runs(int rank) const {
  if (replicated_) return {{.position = 0, .length = sequence_length()}};
  const int mirrored = chunks_.parts() - 1 - rank;
  std::vector<TokenRun> runs;
  for (const int chunk : {rank, mirrored}) {
    if (chunks_.share(chunk) == 0) continue;
    if (!runs.empty() && runs.back().position + runs.back().length == chunks_.offset(chunk)) {
      runs.back().length += chunks_.share(chunk);
    } else {
      runs.push_back({chunks_.offset(chunk), chunks_.share(chunk)});
    }
  }
  return runs;
}

std::int64_t SequenceSharding::local_tokens(int rank) const {
  if (replicated_) return sequence_length();
  return chunks_.share(rank) + chunks_.share(chunks_.parts() - 1 - rank);
}

std::int64_t SequenceSharding::largest_local_tokens() const {
  std::int64_t largest = 0;
  for (int rank = 0; rank < ranks(); ++rank) largest = std::max(largest, local_tokens(rank));
  return largest;
}

KeyRange SequenceSharding::rows_within(int rank, const KeyRange& tokens) const {
  return portolan::rows_within(runs(rank), tokens);
}

KeyRange rows_within(std::span<const TokenRun> runs, const KeyRange& tokens) {
  KeyRange rows;
  for (const TokenRun& run : runs) {
    // Tokens of the run in front of the range, and in front of its end.
    rows.begin += std::clamp<std::int64_t>(tokens.begin - run.position, 0, run.length);
    rows.end += std::clamp<std::int64_t>(tokens.end - run.position, 0, run.length);
  }
  return rows;
}

}  // namespace portolan
