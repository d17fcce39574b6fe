// SPDX-License-Identifier: Apache-2.0
#include "parallel/context_parallel.hpp"

#include <algorithm>
#include <limits>

#include "core/error.hpp"
#include "core/functional.hpp"
#include "core/ops.hpp"

namespace portolan {
namespace {

Tensor query_heads(const Tensor& x, const HeadGroup& group) {
  return x.slice(2, group.query_begin, group.query_end);
}
Tensor key_heads(const Tensor& x, const HeadGroup& group) {
  return x.slice(2, group.kv_begin, group.kv_end);
}
/// Of [B, H, s].
Tensor row_heads(const Tensor& x, const HeadGroup& group) {
  return x.slice(1, group.query_begin, group.query_end);
}

Tensor like(const Tensor& x, DType dtype) { return Tensor::empty(x.shape(), dtype, x.device()); }

AttentionProblem problem(const AttentionOperands& operands, const HeadGroup& group,
                         const AttentionMask& mask, const SelfAttention& attention) {
  AttentionDropout dropout = attention.dropout;
  dropout.first_head += group.query_begin;
  return {query_heads(operands.q, group),
          key_heads(operands.k, group),
          key_heads(operands.v, group),
          mask,
          attention.scale,
          dropout};
}

AttentionGradients gradients_of(const HeadGroup& group, const Tensor& grad_out,
                                const Tensor& log_sum_exp, const Tensor& delta,
                                const AttentionOperands& gradients) {
  return {query_heads(grad_out, group),  row_heads(log_sum_exp, group),
          row_heads(delta, group),       query_heads(gradients.q, group),
          key_heads(gradients.k, group), key_heads(gradients.v, group)};
}

Tensor delta_of(const AttentionResult& result, const Tensor& grad_out) {
  const Tensor delta = like(result.log_sum_exp, DType::f32);
  attention_delta(result.out, grad_out, delta);
  return delta;
}

class LocalAttention final : public AttentionStrategy {
 public:
  [[nodiscard]] SequenceSharding sharding(std::int64_t sequence_length) const override {
    return {sequence_length, 1};
  }
  [[nodiscard]] SequenceSharding following(std::int64_t tokens) const override {
    return {tokens, 1};
  }

  void forward(const AttentionOperands& operands, const SelfAttention& attention,
               const SequenceSharding& /*sharding*/, const AttentionResult& result) const override {
    for (const HeadGroup& group : attention.groups) {
      attention_forward(
          problem(operands, group, mask(attention), attention), query_heads(result.out, group),
          result.log_sum_exp.defined() ? row_heads(result.log_sum_exp, group) : Tensor());
    }
  }

  void forward_cached(const AttentionOperands& operands, const SelfAttention& attention,
                      const SequenceSharding& sharding, KeyValueCache& cache, std::int64_t layer,
                      const AttentionResult& result) const override {
    cache.store(layer, operands.k, operands.v);
    forward({operands.q, cache.keys(layer), cache.values(layer)}, attention, sharding, result);
  }

  void backward(const AttentionOperands& operands, const SelfAttention& attention,
                const SequenceSharding& /*sharding*/, const AttentionResult& result,
                const Tensor& grad_out, const AttentionOperands& gradients) const override {
    const Tensor delta = delta_of(result, grad_out);
    for (const HeadGroup& group : attention.groups) {
      attention_backward(problem(operands, group, mask(attention), attention),
                         gradients_of(group, grad_out, result.log_sum_exp, delta, gradients));
    }
  }

 private:
  static AttentionMask mask(const SelfAttention& attention) {
    return {.causal = attention.causal,
            .window = attention.window,
            .key_ranges = attention.real_tokens};
  }
};

class RingAttention final : public AttentionStrategy {
 public:
  explicit RingAttention(Communicator& communicator) : communicator_(communicator) {}

  [[nodiscard]] SequenceSharding sharding(std::int64_t sequence_length) const override {
    return {sequence_length, communicator_.size()};
  }
  [[nodiscard]] SequenceSharding following(std::int64_t tokens) const override {
    return SequenceSharding::replicated(tokens, communicator_.size());
  }

  void forward(const AttentionOperands& operands, const SelfAttention& attention,
               const SequenceSharding& sharding, const AttentionResult& result) const override {
    const Tensor& q = operands.q;
    const Tensor sum = like(q, DType::f32);
    const Tensor log_sum_exp =
        result.log_sum_exp.defined()
            ? result.log_sum_exp
            : Tensor::empty({q.dim(0), q.dim(2), q.dim(1)}, DType::f32, q.device());
    const Tensor block_sum = like(q, DType::f32);
    const Tensor block_log_sum_exp = like(log_sum_exp, DType::f32);
    const Tensor own = key_value_block(operands, sharding);
    for_each_block(own, sharding, attention, q.dim(1), [&](int step, const Block& block) {
      if (block.hidden && step > 0) return;
      const Tensor& partial = step == 0 ? sum : block_sum;
      const Tensor& partial_lse = step == 0 ? log_sum_exp : block_log_sum_exp;
      for (const HeadGroup& group : attention.groups) {
        attention_partial(problem({q, block.keys, block.values}, group, block.mask, attention),
                          query_heads(partial, group), row_heads(partial_lse, group));
      }
      if (step > 0) attention_merge(block_sum, block_log_sum_exp, sum, log_sum_exp);
    });
    ops::copy(sum, result.out);
  }

  void forward_cached(const AttentionOperands& operands, const SelfAttention& attention,
                      const SequenceSharding& sharding, KeyValueCache& cache, std::int64_t layer,
                      const AttentionResult& result) const override {
    cache.store(layer, operands.k, operands.v);
    if (cache.new_tokens().position == 0) {
      forward(operands, attention, sharding, result);
    } else {
      attend_to_all_caches(operands.q, attention, cache, layer, result.out);
    }
  }

  void backward(const AttentionOperands& operands, const SelfAttention& attention,
                const SequenceSharding& sharding, const AttentionResult& result,
                const Tensor& grad_out, const AttentionOperands& gradients) const override {
    const Tensor& q = operands.q;
    const Tensor delta = delta_of(result, grad_out);
    const Tensor dq = like(q, DType::f32);
    ops::fill(dq, 0.0F);
    const Tensor own = key_value_block(operands, sharding);
    const Tensor contribution = like(own, DType::f32);
    // The gradients of a block: on their way from the rank before, which is done with them.
    std::unique_ptr<RingRotation> travelling;
    for_each_block(own, sharding, attention, q.dim(1), [&](int step, const Block& block) {
      ops::fill(contribution, 0.0F);
      if (!block.hidden) {
        const AttentionOperands block_gradients{dq, keys(contribution, block.tokens),
                                                values(contribution, block.tokens)};
        for (const HeadGroup& group : attention.groups) {
          AttentionGradients parts =
              gradients_of(group, grad_out, result.log_sum_exp, delta, block_gradients);
          parts.accumulate = true;
          attention_backward(problem({q, block.keys, block.values}, group, block.mask, attention),
                             parts);
        }
      }
      const Tensor gathered = communicator_.allocate(own.shape(), DType::f32, own.device());
      ops::copy(contribution, gathered);
      if (step > 0) {
        travelling->advance();
        ops::add(travelling->current(), gathered);
        travelling.reset();
      }
      travelling = communicator_.rotate(gathered);
      travelling->prefetch();
    });
    travelling->advance();
    ops::copy(dq, gradients.q);
    ops::copy(keys(travelling->current(), q.dim(1)), gradients.k);
    ops::copy(values(travelling->current(), q.dim(1)), gradients.v);
  }

 private:
  /// Every rank has all queries and attends to the tokens that it holds; the partial results
  /// [out | log-sum-exp] of all ranks, in f32, merge in rank order on each of them.
  void attend_to_all_caches(const Tensor& q, const SelfAttention& attention,
                            const KeyValueCache& cache, std::int64_t layer,
                            const Tensor& out) const {
    const Shape rows{q.dim(0), q.dim(2), q.dim(1)};
    const std::int64_t length = q.elements() + rows.elements();
    const Tensor own = communicator_.allocate({length}, DType::f32, q.device());
    const auto sums = [&](const Tensor& message) {
      return message.slice(0, 0, q.elements()).view(q.shape());
    };
    const auto log_sum_exps = [&](const Tensor& message) {
      return message.slice(0, q.elements(), length).view(rows);
    };
    if (cache.held_tokens() == 0) {
      ops::fill(sums(own), 0.0F);
      ops::fill(log_sum_exps(own), -std::numeric_limits<float>::infinity());
    } else {
      AttentionMask mask{.causal = true, .window = attention.window};
      mask.query_runs = {cache.new_tokens()};
      mask.key_runs = cache.runs();
      for (const KeyRange& tokens : attention.real_tokens) {
        mask.key_ranges.push_back(rows_within(cache.runs(), tokens));
      }
      for (const HeadGroup& group : attention.groups) {
        attention_partial(
            problem({q, cache.keys(layer), cache.values(layer)}, group, mask, attention),
            query_heads(sums(own), group), row_heads(log_sum_exps(own), group));
      }
    }
    const int ranks = communicator_.size();
    const Tensor all = communicator_.allocate({length * ranks}, DType::f32, q.device());
    communicator_.all_gather(own, all, 0, Partition::even(length * ranks, ranks));
    for (int rank = 1; rank < ranks; ++rank) {
      const Tensor message = all.slice(0, length * rank, length * (rank + 1));
      attention_merge(sums(message), log_sum_exps(message), sums(all), log_sum_exps(all));
    }
    ops::copy(sums(all), out);
  }

  /// Keys and values of one rank's tokens, and how this rank's queries see them.
  struct Block {
    Tensor keys;
    Tensor values;
    std::int64_t tokens = 0;
    AttentionMask mask;
    bool hidden = false;  ///< no query sees any of it
  };

  /// [2, B, largest share, Hkv, D], this rank's tokens first.
  [[nodiscard]] Tensor key_value_block(const AttentionOperands& operands,
                                       const SequenceSharding& sharding) const {
    const Tensor& k = operands.k;
    const Tensor own = communicator_.allocate(
        {2, k.dim(0), sharding.largest_local_tokens(), k.dim(2), k.dim(3)}, k.dtype(), k.device());
    ops::copy(k, keys(own, k.dim(1)));
    ops::copy(operands.v, values(own, k.dim(1)));
    return own;
  }

  /// Sends the blocks round the ring and calls visit(step, block) for each, the own one first.
  template <typename Visit>
  void for_each_block(const Tensor& own, const SequenceSharding& sharding,
                      const SelfAttention& attention, std::int64_t query_tokens,
                      Visit&& visit) const {
    const std::unique_ptr<RingRotation> rotation = communicator_.rotate(own);
    for (int step = 0; step < communicator_.size(); ++step) {
      if (step > 0) rotation->advance();
      if (step + 1 < communicator_.size()) rotation->prefetch();
      const int source = rotation->source();
      Block block;
      block.tokens = sharding.local_tokens(source);
      block.keys = keys(rotation->current(), block.tokens);
      block.values = values(rotation->current(), block.tokens);
      block.mask.causal = attention.causal;
      block.mask.window = attention.window;
      for (const KeyRange& tokens : attention.real_tokens) {
        block.mask.key_ranges.push_back(sharding.rows_within(source, tokens));
      }
      block.mask.query_runs = sharding.runs(communicator_.rank());
      block.mask.key_runs = sharding.runs(source);
      block.hidden = visible_scores(block.mask, query_tokens, block.tokens) == 0;
      visit(step, block);
    }
  }

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

AttentionOperands AttentionOperands::of(const Tensor& x, const SelfAttention& attention) {
  if (attention.layout == FusedLayout::by_head) {
    const Tensor heads = x.split_last(attention.heads);
    const auto part = [&](std::int64_t index) {
      return heads.slice(x.rank(), index * attention.head_dim, (index + 1) * attention.head_dim);
    };
    return {part(0), part(1), part(2)};
  }
  const auto part = [&](std::int64_t first_head, std::int64_t count) {
    return x
        .slice(x.rank() - 1, first_head * attention.head_dim,
               (first_head + count) * attention.head_dim)
        .split_last(count);
  };
  return {part(0, attention.heads), part(attention.heads, attention.kv_heads),
          part(attention.heads + attention.kv_heads, attention.kv_heads)};
}

Variable self_attention(const Variable& x, const SelfAttention& attention,
                        const AttentionStrategy& strategy, const SequenceSharding& sharding) {
  const AttentionOperands operands = AttentionOperands::of(x.value(), attention);
  const Tensor& q = operands.q;
  AttentionResult result{like(q, q.dtype()), {}};
  Tape* tape = x.tape();
  if (tape != nullptr) {
    result.log_sum_exp = Tensor::empty({q.dim(0), q.dim(2), q.dim(1)}, DType::f32, q.device());
  }
  strategy.forward(operands, attention, sharding, result);
  const Tensor flat = result.out.view({q.dim(0), q.dim(1), q.dim(2) * q.dim(3)});
  if (tape == nullptr) return flat;
  return tape->record(flat, {}, [=, &strategy](OutputGradients gradients) {
    const Tensor grad_x = like(x.value(), x.value().dtype());
    strategy.backward(AttentionOperands::of(x.value(), attention), attention, sharding, result,
                      gradients[0].value.view(result.out.shape()),
                      AttentionOperands::of(grad_x, attention));
    tape->contribute(x.target(), grad_x);
  });
}

Tensor cached_self_attention(const Tensor& x, const SelfAttention& attention,
                             const AttentionStrategy& strategy, const SequenceSharding& sharding,
                             KeyValueCache& cache, std::int64_t layer) {
  const AttentionOperands operands = AttentionOperands::of(x, attention);
  const Tensor& q = operands.q;
  const AttentionResult result{like(q, q.dtype()), {}};
  strategy.forward_cached(operands, attention, sharding, cache, layer, result);
  return result.out.view({q.dim(0), q.dim(1), q.dim(2) * q.dim(3)});
}

Tensor self_attention_over_rows(const Tensor& x, const SelfAttention& attention,
                                const Rotation* rotation, KeyValueCache& cache,
                                std::int64_t layer) {
  const CacheRows rows = cache.rows_of_layer(layer);
  const Tensor tokens = functional::rows(x);
  if (rotation != nullptr) {
    ops::rotary_store_cache_rows(tokens.split_last(attention.heads + 2 * attention.kv_heads),
                                 rotation->positions, rotation->cosines, rotation->sines, rows);
  } else {
    const AttentionOperands operands = AttentionOperands::of(tokens, attention);
    ops::store_cache_rows(operands.k, operands.v, rows);
  }
  const Tensor q = AttentionOperands::of(x, attention).q;
  const Tensor out = like(q, q.dtype());
  const AttentionMask mask{.causal = attention.causal, .window = attention.window};
  for (const HeadGroup& group : attention.groups) {
    AttentionProblem part = problem({q, rows.keys, rows.values}, group, mask, attention);
    part.cached_rows = rows.rows;
    attention_forward(part, query_heads(out, group));
  }
  return out.view({q.dim(0), q.dim(1), q.dim(2) * q.dim(3)});
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

std::int64_t ring_attention_backward_bytes(const SequenceSharding& sharding, std::int64_t batch,
                                           std::int64_t kv_heads, std::int64_t head_dim,
                                           DType dtype) {
  const std::int64_t ranks = sharding.ranks();
  if (ranks == 1) return 0;
  return ring_attention_bytes(sharding, batch, kv_heads, head_dim, dtype) +
         ring_attention_bytes(sharding, batch, kv_heads, head_dim, DType::f32) / (ranks - 1) *
             ranks;
}

}  // namespace portolan
