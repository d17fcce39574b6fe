// SPDX-License-Identifier: Apache-2.0
#include "models/attention_block.hpp"

#include <cmath>
#include <optional>
#include <utility>

#include "core/backend.hpp"

namespace portolan {

AttentionBlock::AttentionBlock(const ModelPlan& plan, int rank, std::int64_t layer,
                               ColumnParallelLinear qkv, RowParallelLinear out, AttentionKind kind)
    : layer_(static_cast<std::uint64_t>(layer)),
      sharded_(plan.attention_is_sharded()),
      qkv_(std::move(qkv)),
      out_(std::move(out)),
      rotary_(std::move(kind.rotary)) {
  const CommonConfig& config = plan.dimensions();
  attention_.heads = plan.query_heads(rank);
  attention_.kv_heads = plan.key_value_heads(rank);
  attention_.head_dim = config.head_dim;
  attention_.groups = head_groups(plan.first_query_head(rank), attention_.heads,
                                  config.attention_heads / config.kv_heads);
  attention_.scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(config.head_dim)));
  attention_.window = kind.window;
  attention_.causal = plan.outline().causal;
  attention_.layout = plan.heads_are_fused() ? FusedLayout::by_head : FusedLayout::by_kind;
  attention_.dropout.first_head = plan.first_query_head(rank);
}

Variable AttentionBlock::forward(const Variable& normed, const ForwardPass& pass) const {
  const ProfilingRegion region(normed.value().device(), "Portolan::Model::attention");
  SelfAttention attention = attention_;
  attention.dropout.probability = pass.options.attention_dropout;
  attention.dropout.key = pass.options.dropout_key;
  attention.dropout.key.stream += layer_;  // layers draw independently
  attention.real_tokens = pass.options.real_tokens;

  Variable qkv = qkv_.forward(pass.enter(normed, sharded_));
  KeyValueCache* const cache = pass.options.cache;
  const auto layer = static_cast<std::int64_t>(layer_);
  if (cache != nullptr && cache->reads_rows()) {
    std::optional<Rotation> rotation;
    if (rotary_ != nullptr) rotation = {pass.positions, rotary_->cosines, rotary_->sines};
    return out_.product(self_attention_over_rows(qkv.value(), attention,
                                                 rotation ? &*rotation : nullptr, *cache, layer));
  }
  if (rotary_ != nullptr) {
    // Queries and keys lie side by side, so one pass rotates both.
    qkv =
        functional::rotary_embedding(qkv, attention.heads + attention.kv_heads, attention.head_dim,
                                     pass.positions, rotary_->cosines, rotary_->sines);
  }
  const AttentionStrategy& strategy = pass.context.attention();
  if (cache != nullptr) {
    return out_.product(
        cached_self_attention(qkv.value(), attention, strategy, pass.sharding, *cache, layer));
  }
  return out_.product(self_attention(qkv, attention, strategy, pass.sharding));
}

}  // namespace portolan
