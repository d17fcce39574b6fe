// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "attention/problem.hpp"
#include "parallel/partition.hpp"

namespace portolan {

/// How a sequence is dealt over the context-parallel ranks: zigzag. It is cut in 2p chunks and rank
/// r holds chunks r and 2p-1-r, so that under a causal mask every rank has the same number of
/// scores to compute (Zhu 2024, ring-flash-attention). Chunks differ by at most one token and may
/// be empty.
class SequenceSharding {
 public:
  SequenceSharding(std::int64_t sequence_length, int ranks);
  /// Not dealt at all: every rank holds all tokens.
  [[nodiscard]] static SequenceSharding replicated(std::int64_t sequence_length, int ranks);

  [[nodiscard]] std::int64_t sequence_length() const noexcept { return chunks_.extent(); }
  [[nodiscard]] int ranks() const noexcept { return chunks_.parts() / 2; }
  /// The runs of tokens of a rank in the order of its rows; empty runs are left out.
  [[nodiscard]] std::vector<TokenRun> runs(int rank) const;
  [[nodiscard]] std::int64_t local_tokens(int rank) const;
  [[nodiscard]] std::int64_t largest_local_tokens() const;
  /// The rows of a rank whose tokens lie in [tokens.begin, tokens.end): neighbours, as runs ascend.
  [[nodiscard]] KeyRange rows_within(int rank, const KeyRange& tokens) const;

 private:
  Partition chunks_;
  bool replicated_ = false;
};

/// The rows of a rank that holds `runs`, in this order, whose tokens lie in [tokens.begin,
/// tokens.end): neighbours if runs ascend.
[[nodiscard]] KeyRange rows_within(std::span<const TokenRun> runs, const KeyRange& tokens);

}  // namespace portolan
