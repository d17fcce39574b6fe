// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "attention/attention.hpp"
#include "core/tape.hpp"
#include "parallel/communicator.hpp"
#include "parallel/key_value_cache.hpp"
#include "parallel/sequence_sharding.hpp"

namespace portolan {

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

/// How queries, keys and values lie in the output of their fused product: all queries, then all
/// keys, then all values; or the three of each head side by side.
enum class FusedLayout { by_kind, by_head };

/// One layer's self-attention over whole sequences of `sharding.sequence_length()` tokens.
struct SelfAttention {
  std::int64_t heads = 0;     ///< query heads of this rank
  std::int64_t kv_heads = 0;  ///< key/value heads of this rank
  std::int64_t head_dim = 0;
  std::vector<HeadGroup> groups;  ///< cover all heads
  float scale = 1.0F;
  std::int64_t window = 0;  ///< 0: none
  AttentionDropout dropout = {};
  bool causal = true;
  FusedLayout layout = FusedLayout::by_kind;
  /// Of each sequence the tokens [begin, end) that are no padding; empty: all.
  std::vector<KeyRange> real_tokens = {};
};

/// q [B, s, H, D], k and v [B, s, Hkv, D] with s this rank's tokens, or gradients of these; or the
/// same of tokens [B * s, ...].
struct AttentionOperands {
  Tensor q;
  Tensor k;
  Tensor v;

  /// Parts of x [..., (H + 2 Hkv) D], where they lie as `attention.layout` says.
  [[nodiscard]] static AttentionOperands of(const Tensor& x, const SelfAttention& attention);
};

/// What a forward pass leaves for its gradient.
struct AttentionResult {
  Tensor out;          ///< like q
  Tensor log_sum_exp;  ///< [B, H, s] f32; undefined: not wanted
};

/// How a layer's attention is computed over the ranks that hold the sequence.
class AttentionStrategy {
 public:
  virtual ~AttentionStrategy() = default;
  /// How a sequence is dealt. One rank: a single run.
  [[nodiscard]] virtual SequenceSharding sharding(std::int64_t sequence_length) const = 0;
  /// The same of tokens that follow cached ones: few, so that every rank has all of them.
  [[nodiscard]] virtual SequenceSharding following(std::int64_t tokens) const = 0;
  virtual void forward(const AttentionOperands& operands, const SelfAttention& attention,
                       const SequenceSharding& sharding, const AttentionResult& result) const = 0;
  /// The same over cached tokens and the operands', which the last extend() of `cache` announced
  /// and which are added to layer `layer` of it. Writes result.out alone.
  virtual void forward_cached(const AttentionOperands& operands, const SelfAttention& attention,
                              const SequenceSharding& sharding, KeyValueCache& cache,
                              std::int64_t layer, const AttentionResult& result) const = 0;
  /// Writes the gradients of the operands. grad_out like out.
  virtual void backward(const AttentionOperands& operands, const SelfAttention& attention,
                        const SequenceSharding& sharding, const AttentionResult& result,
                        const Tensor& grad_out, const AttentionOperands& gradients) const = 0;
};

/// x [B, s, (H + 2 Hkv) D] -> [B, s, H D]; recorded if x is on a tape. `strategy` must outlive it.
[[nodiscard]] Variable self_attention(const Variable& x, const SelfAttention& attention,
                                      const AttentionStrategy& strategy,
                                      const SequenceSharding& sharding);

/// The same over cached tokens and those of x; never recorded. See forward_cached().
[[nodiscard]] Tensor cached_self_attention(const Tensor& x, const SelfAttention& attention,
                                           const AttentionStrategy& strategy,
                                           const SequenceSharding& sharding, KeyValueCache& cache,
                                           std::int64_t layer);

/// By which queries and keys are rotated: see Backend::rotary_embedding.
struct Rotation {
  Tensor positions;  ///< of all tokens
  Tensor cosines;
  Tensor sines;
};

/// The same over a cache that reads its rows from device memory (KeyValueCache::read_rows_from), on
/// a rank that holds whole sequences: enqueues operations that do not depend on how many tokens
/// there are. x is not rotated yet, and overwritten; `rotation` null: it is not to be.
[[nodiscard]] Tensor self_attention_over_rows(const Tensor& x, const SelfAttention& attention,
                                              const Rotation* rotation, KeyValueCache& cache,
                                              std::int64_t layer);

/// The whole sequence is here.
[[nodiscard]] std::unique_ptr<AttentionStrategy> make_local_attention();

/// Ring attention (Liu, Zaharia, Abbeel 2023, arXiv:2310.01889): the ranks' key/value blocks, as
/// they are stored (grouped heads are not expanded), travel round the ring once, each while the
/// block before it is used; partial results merge by log-sum-exp in f32. In the backward pass they
/// travel once more, and the f32 gradients of each block follow one step behind, gathering every
/// rank's contribution on their way home. A rank holds its own block and at most two in flight.
/// `communicator` must outlive the strategy.
[[nodiscard]] std::unique_ptr<AttentionStrategy> make_ring_attention(Communicator& communicator);

/// Bytes that all ranks together receive in one forward pass of ring attention over one layer:
/// blocks are padded to the largest, so (p-1) * p * 2 * B * s * Hkv * D * size with s the largest
/// share.
[[nodiscard]] std::int64_t ring_attention_bytes(const SequenceSharding& sharding,
                                                std::int64_t batch, std::int64_t kv_heads,
                                                std::int64_t head_dim, DType dtype);
/// The same for the backward pass: the blocks once more, and their f32 gradients p times.
[[nodiscard]] std::int64_t ring_attention_backward_bytes(const SequenceSharding& sharding,
                                                         std::int64_t batch, std::int64_t kv_heads,
                                                         std::int64_t head_dim, DType dtype);

}  // namespace portolan
