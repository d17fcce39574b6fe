// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "attention/attention.hpp"
#include "core/tensor.hpp"
#include "parallel/communicator.hpp"

namespace portolan {

/// How a sequence is dealt over the context-parallel ranks: zigzag. It is cut in 2p chunks and rank
/// r holds chunks r and 2p-1-r, so that under a causal mask every rank has the same number of
/// scores to compute (Zhu 2024, ring-flash-attention). Chunks differ by at most one token and may
/// be empty.
class SequenceSharding {
 public:
  SequenceSharding(std::int64_t sequence_length, int ranks);

  [[nodiscard]] std::int64_t sequence_length() const noexcept { return chunks_.extent(); }
  [[nodiscard]] int ranks() const noexcept { return chunks_.parts() / 2; }
  /// The runs of tokens of a rank in the order of its rows; empty runs are left out.
  [[nodiscard]] std::vector<TokenRun> runs(int rank) const;
  [[nodiscard]] std::int64_t local_tokens(int rank) const;
  [[nodiscard]] std::int64_t largest_local_tokens() const;

 private:
  Partition chunks_;
};

/// Query heads [query_begin, query_end) that read key/value heads [kv_begin, kv_end), each of these
/// read by as many. Usually one group says it all; a share of heads that cuts groups has several.
struct HeadGroup {
  std::int64_t query_begin = 0;
  std::int64_t query_end = 0;
  std::int64_t kv_begin = 0;
  std::int64_t kv_end = 0;
};

/// The groups of a rank's query heads [first_head, first_head + heads) when `group_size`
/// consecutive query heads read one key/value head; its first key/value head is that of its first
/// query head.
[[nodiscard]] std::vector<HeadGroup> head_groups(std::int64_t first_head, std::int64_t heads,
                                                 std::int64_t group_size);

/// How a layer's attention is computed over the ranks that hold the sequence.
class AttentionStrategy {
 public:
  virtual ~AttentionStrategy() = default;
  /// How a sequence is dealt. One rank: a single run.
  [[nodiscard]] virtual SequenceSharding sharding(std::int64_t sequence_length) const = 0;
  /// Self-attention over the whole sequence of `sharding.sequence_length()` tokens. q [B, s, H, D],
  /// k, v [B, s, Hkv, D] with s this rank's tokens; `groups` cover all heads; out like q. window 0:
  /// none.
  virtual void forward(const Tensor& q, const Tensor& k, const Tensor& v,
                       std::span<const HeadGroup> groups, float scale, std::int64_t window,
                       const SequenceSharding& sharding, const Tensor& out) const = 0;
};

/// The whole sequence is here.
[[nodiscard]] std::unique_ptr<AttentionStrategy> make_local_attention();

/// Ring attention (Liu, Zaharia, Abbeel 2023, arXiv:2310.01889): the ranks' key/value blocks, as
/// they are stored (grouped heads are not expanded), travel round the ring once, each while the
/// block before it is used; partial results merge by log-sum-exp in f32. A rank holds its own block
/// and at most two in flight. `communicator` must outlive the strategy.
[[nodiscard]] std::unique_ptr<AttentionStrategy> make_ring_attention(Communicator& communicator);

/// Bytes that all ranks together receive in one forward pass of ring attention over one layer:
/// blocks are padded to the largest, so (p-1) * p * 2 * B * s * Hkv * D * size with s the largest
/// share.
[[nodiscard]] std::int64_t ring_attention_bytes(const SequenceSharding& sharding,
                                                std::int64_t batch, std::int64_t kv_heads,
                                                std::int64_t head_dim, DType dtype);

}  // namespace portolan
