// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include "models/outline.hpp"
#include "models/parallel_context.hpp"
#include "parallel/plan.hpp"

namespace portolan {

/// Calls and bytes of each collective, added up over all ranks, as CollectiveCounters counts them.
struct ExpectedCollective {
  std::int64_t calls = 0;
  std::int64_t bytes = 0;
};
using ExpectedCommunication = std::array<ExpectedCollective, kCollectiveCount>;

/// One matrix product of a forward pass: [m, k] times [n, k] transposed.
struct ProductShape {
  const char* name;
  std::int64_t m = 0;
  std::int64_t n = 0;
  std::int64_t k = 0;
  std::int64_t count = 1;  ///< products of this shape in one forward

  [[nodiscard]] double flops() const {
    return 2.0 * static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k) *
           static_cast<double>(count);
  }
};

/// The built-in table, behind the rules of a registered architecture of one's own.
[[nodiscard]] std::vector<PlanRule> plan_rules(const ModelConfig& config);

/// Everything about a sharded model that arithmetic can tell: who holds what, what is sent, what is
/// multiplied, what memory it takes. Needs no processes and allocates no tensors.
class ModelPlan {
 public:
  /// Without `rules`: plan_rules(config). Throws UsageError if there are more tensor-parallel ranks
  /// than query heads, or if the rules cut the two sides of a block at different places.
  ModelPlan(const ModelConfig& config, const ParallelLayout& layout,
            const std::optional<std::vector<PlanRule>>& rules = {});

  [[nodiscard]] const ModelConfig& config() const noexcept { return config_; }
  /// What every architecture's config has.
  [[nodiscard]] const CommonConfig& dimensions() const { return config_.common(); }
  [[nodiscard]] const ModelOutline& outline() const noexcept { return outline_; }
  [[nodiscard]] const ParallelLayout& layout() const noexcept { return layout_; }
  [[nodiscard]] const ResolvedPlan& parameters() const noexcept { return plan_; }

  /// Heads that tensor-parallel rank `rank` computes, and the first of the key/value heads it
  /// holds.
  [[nodiscard]] std::int64_t query_heads(int rank) const;
  [[nodiscard]] std::int64_t first_query_head(int rank) const;
  [[nodiscard]] std::int64_t key_value_heads(int rank) const;
  [[nodiscard]] std::int64_t first_key_value_head(int rank) const;
  /// Whether each head's query, key and value lie side by side in the fused product's output.
  [[nodiscard]] bool heads_are_fused() const { return outline_.key.empty(); }
  /// Rows of the vocabulary whose logits `rank` computes.
  [[nodiscard]] ShardRange vocabulary(int rank) const;

  [[nodiscard]] bool embedding_is_sharded() const;
  [[nodiscard]] bool attention_is_sharded() const;
  [[nodiscard]] bool mlp_is_sharded() const;

  /// Tokens of each sequence on mesh rank `rank` inside blocks and, under sequence parallelism,
  /// between them.
  [[nodiscard]] std::int64_t block_tokens(int rank, std::int64_t sequence_length) const;
  [[nodiscard]] std::int64_t residual_tokens(int rank, std::int64_t sequence_length) const;

  /// Of one forward pass over [batch, sequence_length] tokens with sharded logits.
  [[nodiscard]] ExpectedCommunication communication(std::int64_t batch,
                                                    std::int64_t sequence_length,
                                                    DType dtype) const;
  [[nodiscard]] std::vector<ProductShape> products(int rank, std::int64_t batch,
                                                   std::int64_t sequence_length) const;
  /// Bytes of parameters on mesh rank `rank`, packing's padding left out.
  [[nodiscard]] std::int64_t weight_bytes(int rank, DType dtype) const;
  /// Largest sum of activations that live at one time on mesh rank `rank`, and of the collective
  /// buffers of all ranks of the node, which are resident in each of them. With `last_only` only
  /// the last token of each sequence has logits.
  [[nodiscard]] std::int64_t activation_bytes(int rank, std::int64_t batch,
                                              std::int64_t sequence_length, DType dtype,
                                              bool last_only = false) const;
  /// Bytes of a cache of keys and values for that many tokens on mesh rank `rank`.
  [[nodiscard]] std::int64_t cache_bytes(int rank, std::int64_t batch, std::int64_t tokens,
                                         DType dtype) const;

 private:
  [[nodiscard]] int tensor_rank(int rank) const;
  /// Of layer 0, whose dealing all layers have.
  [[nodiscard]] const PlannedParameter& in_layer(std::string_view name) const;
  /// What rank `rank` holds of the parameter by which queries, and keys, are counted.
  [[nodiscard]] const ShardRange& range(std::string_view name, int rank) const;
  /// Rows of the parameter of the queries for each head.
  [[nodiscard]] std::int64_t query_rows() const;
  void check_blocks() const;
  /// A bias is dealt as the output features that it is added to.
  void check_biases() const;
  void check_heads() const;

  ModelConfig config_;
  ModelOutline outline_;
  ParallelLayout layout_;
  ResolvedPlan plan_;
};

}  // namespace portolan
