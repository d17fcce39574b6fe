// SPDX-License-Identifier: Apache-2.0
#include "parallel/context_parallel.hpp"

#include <algorithm>

#include "core/error.hpp"
#include "core/ops.hpp"

namespace portolan {
namespace {

Tensor query_heads(const Tensor& x, const HeadGroup& group) {
  return x.slice(2, group.query_begin, group.query_end);
}

AttentionProblem problem(const Tensor& q, const Tensor& k, const Tensor& v, const HeadGroup& group,
                         const AttentionMask& mask, float scale) {
  return {query_heads(q, group), k.slice(2, group.kv_begin, group.kv_end),
          v.slice(2, group.kv_begin, group.kv_end), mask, scale};
}

class LocalAttention final : public AttentionStrategy {
 public:
  [[nodiscard]] SequenceSharding sharding(std::int64_t sequence_length) const override {
    return {sequence_length, 1};
  }

  void forward(const Tensor& q, const Tensor& k, const Tensor& v, std::span<const HeadGroup> groups,
               float scale, std::int64_t window, const SequenceSharding& /*sharding*/,
               const Tensor& out) const override {
    const AttentionMask mask{.causal = true, .window = window, .query_runs = {}, .key_runs = {}};
    for (const HeadGroup& group : groups) {
      attention_forward(problem(q, k, v, group, mask, scale), query_heads(out, group));
    }
  }
};

class RingAttention final : public AttentionStrategy {
 public:
  explicit RingAttention(Communicator& communicator) : communicator_(communicator) {}

  [[nodiscard]] SequenceSharding sharding(std::int64_t sequence_length) const override {
    return {sequence_length, communicator_.size()};
  }

  void forward(const Tensor& q, const Tensor& k, const Tensor& v, std::span<const HeadGroup> groups,
               float scale, std::int64_t window, const SequenceSharding& sharding,
               const Tensor& out) const override {
    const std::int64_t batch = q.dim(0);
    const std::int64_t tokens = q.dim(1);
    const std::int64_t padded = sharding.largest_local_tokens();
    const Tensor own =
        communicator_.allocate({2, batch, padded, k.dim(2), k.dim(3)}, k.dtype(), k.device());
    ops::copy(k, keys(own, tokens));
    ops::copy(v, values(own, tokens));

    const Tensor sum = Tensor::empty(q.shape(), DType::f32, q.device());
    const Tensor log_sum_exp = Tensor::empty({batch, q.dim(2), tokens}, DType::f32, q.device());
    const Tensor block_sum = Tensor::empty(q.shape(), DType::f32, q.device());
    const Tensor block_log_sum_exp = Tensor::empty(log_sum_exp.shape(), DType::f32, q.device());

    const std::unique_ptr<RingRotation> rotation = communicator_.rotate(own);
    const std::vector<TokenRun> query_runs = sharding.runs(communicator_.rank());
    for (int step = 0; step < communicator_.size(); ++step) {
      if (step > 0) rotation->advance();
      if (step + 1 < communicator_.size()) rotation->prefetch();
      const std::int64_t block_tokens = sharding.local_tokens(rotation->source());
      const AttentionMask mask{.causal = true,
                               .window = window,
                               .query_runs = query_runs,
                               .key_runs = sharding.runs(rotation->source())};
      if (step > 0 && visible_scores(mask, tokens, block_tokens) == 0) continue;
      const Tensor block_keys = keys(rotation->current(), block_tokens);
      const Tensor block_values = values(rotation->current(), block_tokens);
      const Tensor& partial = step == 0 ? sum : block_sum;
      const Tensor& partial_lse = step == 0 ? log_sum_exp : block_log_sum_exp;
      for (const HeadGroup& group : groups) {
        attention_partial(problem(q, block_keys, block_values, group, mask, scale),
                          query_heads(partial, group),
                          partial_lse.slice(1, group.query_begin, group.query_end));
      }
      if (step > 0) attention_merge(block_sum, block_log_sum_exp, sum, log_sum_exp);
    }
    ops::copy(sum, out);
  }

 private:
  static Tensor part(const Tensor& block, std::int64_t index, std::int64_t tokens) {
    const Shape& shape = block.shape();
    return block.slice(0, index, index + 1)
        .view({shape[1], shape[2], shape[3], shape[4]})
        .slice(1, 0, tokens);
  }
  static Tensor keys(const Tensor& block, std::int64_t tokens) { return part(block, 0, tokens); }
  static Tensor values(const Tensor& block, std::int64_t tokens) { return part(block, 1, tokens); }

  Communicator& communicator_;
};

}  // namespace

SequenceSharding::SequenceSharding(std::int64_t sequence_length, int ranks)
    : chunks_(Partition::even(sequence_length, 2 * ranks)) {}

std::vector<TokenRun> SequenceSharding::runs(int rank) const {
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
  return chunks_.share(rank) + chunks_.share(chunks_.parts() - 1 - rank);
}

std::int64_t SequenceSharding::largest_local_tokens() const {
  std::int64_t largest = 0;
  for (int rank = 0; rank < ranks(); ++rank) largest = std::max(largest, local_tokens(rank));
  return largest;
}

std::vector<HeadGroup> head_groups(std::int64_t first_head, std::int64_t heads,
                                   std::int64_t group_size) {
  const std::int64_t first_kv = first_head / group_size;
  const std::int64_t last_kv = (first_head + heads - 1) / group_size;
  const bool whole = first_head % group_size == 0 && heads % group_size == 0;
  if (whole || first_kv == last_kv) return {{0, heads, 0, last_kv - first_kv + 1}};
  std::vector<HeadGroup> groups;
  for (std::int64_t head = 0; head < heads;) {
    const std::int64_t kv = (first_head + head) / group_size;
    const std::int64_t end = std::min(heads, (kv + 1) * group_size - first_head);
    groups.push_back({head, end, kv - first_kv, kv - first_kv + 1});
    head = end;
  }
  return groups;
}

std::unique_ptr<AttentionStrategy> make_local_attention() {
  return std::make_unique<LocalAttention>();
}

std::unique_ptr<AttentionStrategy> make_ring_attention(Communicator& communicator) {
  if (communicator.size() == 1) return make_local_attention();
  return std::make_unique<RingAttention>(communicator);
}

std::int64_t ring_attention_bytes(const SequenceSharding& sharding, std::int64_t batch,
                                  std::int64_t kv_heads, std::int64_t head_dim, DType dtype) {
  const std::int64_t ranks = sharding.ranks();
  return ranks * (ranks - 1) * 2 * batch * sharding.largest_local_tokens() * kv_heads * head_dim *
         static_cast<std::int64_t>(size_of(dtype));
}

}  // namespace portolan
