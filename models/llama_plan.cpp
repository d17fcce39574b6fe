// SPDX-License-Identifier: Apache-2.0
#include "models/llama_plan.hpp"

#include <algorithm>
#include <initializer_list>

#include "core/error.hpp"

namespace portolan {
namespace {

constexpr const char* kEmbedding = "model.embed_tokens.weight";
constexpr const char* kHead = "lm_head.weight";
constexpr const char* kQuery = "model.layers.0.self_attn.q_proj.weight";
constexpr const char* kKey = "model.layers.0.self_attn.k_proj.weight";
constexpr const char* kAttentionOut = "model.layers.0.self_attn.o_proj.weight";
constexpr const char* kGate = "model.layers.0.mlp.gate_proj.weight";
constexpr const char* kDown = "model.layers.0.mlp.down_proj.weight";

ResolvedPlan resolve(const LlamaConfig& config, const ParallelLayout& layout,
                     const std::vector<PlanRule>& rules) {
  const int ranks = layout.mesh.tensor;
  require(ranks <= config.attention_heads,
          "tensor parallelism deals {} query heads, so it takes at most {} ranks, found {}",
          config.attention_heads, config.attention_heads, ranks);
  std::vector<PlanParameter> parameters;
  for (const ParameterShape& parameter : parameter_shapes(config)) {
    parameters.push_back({parameter.name, Shape(std::span<const std::int64_t>(parameter.shape))});
  }
  // One tensor-parallel rank holds everything, whatever the rules.
  if (ranks == 1) return resolve_plan({}, parameters, {}, 1);
  const Partition heads = Partition::even(config.attention_heads, ranks);
  const PlanAxes axes{
      {"query_heads", plan_axis(heads, config.head_dim)},
      {"key_value_heads",
       key_value_axis(heads, config.attention_heads, config.kv_heads, config.head_dim)},
      {"intermediate", plan_axis(feature_partition(config.intermediate_size, ranks))},
      {"vocabulary", plan_axis(feature_partition(config.vocab_size, ranks))},
  };
  return resolve_plan(rules, parameters, axes, ranks);
}

}  // namespace

LlamaPlan::LlamaPlan(const LlamaConfig& config, const ParallelLayout& layout,
                     const std::vector<PlanRule>& rules)
    : config_(config), layout_(layout), plan_(resolve(config, layout, rules)) {
  check_blocks();
}

void LlamaPlan::check_blocks() const {
  const auto require_pair = [this](const std::string& out, const std::string& in) {
    const PlannedParameter& first = plan_.at(out);
    const PlannedParameter& second = plan_.at(in);
    for (std::size_t rank = 0; rank < first.ranges.size(); ++rank) {
      const ShardRange& outputs = first.ranges[rank];
      const ShardRange& inputs = second.ranges[rank];
      require(outputs.row_begin == inputs.column_begin && outputs.row_end == inputs.column_end,
              "the plan cuts {} and {} at different places: output features [{}, {}) against input "
              "features [{}, {}) on rank {}",
              out, in, outputs.row_begin, outputs.row_end, inputs.column_begin, inputs.column_end,
              rank);
    }
  };
  for (std::int64_t layer = 0; layer < config_.layers; ++layer) {
    const std::string prefix = fmt::format("model.layers.{}.", layer);
    require_pair(prefix + "self_attn.q_proj.weight", prefix + "self_attn.o_proj.weight");
    require_pair(prefix + "mlp.gate_proj.weight", prefix + "mlp.down_proj.weight");
    require_pair(prefix + "mlp.up_proj.weight", prefix + "mlp.down_proj.weight");
    for (const auto& [name, first] : std::initializer_list<std::pair<const char*, const char*>>{
             {"self_attn.q_proj.weight", kQuery},
             {"self_attn.k_proj.weight", kKey},
             {"self_attn.v_proj.weight", kKey},
             {"mlp.gate_proj.weight", kGate}}) {
      require(plan_.at(prefix + name).ranges == plan_.at(first).ranges,
              "the plan cuts {}{} differently from {}", prefix, name, first);
    }
  }
  for (int rank = 0; rank < layout_.mesh.tensor; ++rank) {
    const std::int64_t group = config_.attention_heads / config_.kv_heads;
    const std::int64_t last = first_query_head(rank) + query_heads(rank) - 1;
    require(first_query_head(rank) / group >= first_key_value_head(rank) &&
                last / group < first_key_value_head(rank) + key_value_heads(rank),
            "the plan gives rank {} query heads [{}, {}] without the key/value heads they read",
            rank, first_query_head(rank), last);
  }
  for (const char* name : {kEmbedding, kHead}) {
    if (config_.tie_word_embeddings && name == kHead) continue;
    for (const ShardRange& range : plan_.at(name).ranges) {
      require(range.columns() == config_.hidden_size,
              "the plan must deal {} along the vocabulary or replicate it", name);
    }
  }
}

int LlamaPlan::tensor_rank(int rank) const { return mesh_coordinates(layout_.mesh, rank).tensor; }

std::int64_t LlamaPlan::query_heads(int rank) const {
  return plan_.at(kQuery).ranges[static_cast<std::size_t>(rank)].rows() / config_.head_dim;
}
std::int64_t LlamaPlan::first_query_head(int rank) const {
  return plan_.at(kQuery).ranges[static_cast<std::size_t>(rank)].row_begin / config_.head_dim;
}
std::int64_t LlamaPlan::key_value_heads(int rank) const {
  return plan_.at(kKey).ranges[static_cast<std::size_t>(rank)].rows() / config_.head_dim;
}
std::int64_t LlamaPlan::first_key_value_head(int rank) const {
  return plan_.at(kKey).ranges[static_cast<std::size_t>(rank)].row_begin / config_.head_dim;
}
ShardRange LlamaPlan::vocabulary(int rank) const {
  return plan_.at(config_.tie_word_embeddings ? kEmbedding : kHead)
      .ranges[static_cast<std::size_t>(rank)];
}

bool LlamaPlan::embedding_is_sharded() const {
  return plan_.at(kEmbedding).style == ShardStyle::vocabulary;
}
bool LlamaPlan::attention_is_sharded() const {
  return plan_.at(kAttentionOut).style == ShardStyle::row;
}
bool LlamaPlan::mlp_is_sharded() const { return plan_.at(kDown).style == ShardStyle::row; }

std::int64_t LlamaPlan::block_tokens(int rank, std::int64_t sequence_length) const {
  return SequenceSharding(sequence_length, layout_.mesh.context)
      .local_tokens(mesh_coordinates(layout_.mesh, rank).context);
}

std::int64_t LlamaPlan::residual_tokens(int rank, std::int64_t sequence_length) const {
  const std::int64_t tokens = block_tokens(rank, sequence_length);
  if (!layout_.sequence_parallel) return tokens;
  return Partition::even(tokens, layout_.mesh.tensor).share(tensor_rank(rank));
}

ExpectedCommunication LlamaPlan::communication(std::int64_t batch, std::int64_t sequence_length,
                                               DType dtype) const {
  ExpectedCommunication expected{};
  const auto add = [&expected](Collective collective, std::int64_t calls, std::int64_t bytes) {
    ExpectedCollective& entry = expected[static_cast<std::size_t>(collective)];
    entry.calls += calls;
    entry.bytes += bytes;
  };
  const auto [data, context, tensor] = layout_.mesh;
  if (tensor > 1) {
    const std::int64_t sums =
        (embedding_is_sharded() ? 1 : 0) +
        config_.layers * ((attention_is_sharded() ? 1 : 0) + (mlp_is_sharded() ? 1 : 0));
    const std::int64_t gathers = 2 * config_.layers + 1;
    for (int group = 0; group < context; ++group) {
      const std::int64_t tokens = block_tokens(group * tensor, sequence_length);
      const std::int64_t bytes = batch * tokens * config_.hidden_size *
                                 static_cast<std::int64_t>(size_of(dtype)) * (tensor - 1);
      if (layout_.sequence_parallel) {
        add(Collective::reduce_scatter, sums * tensor, sums * bytes);
        add(Collective::all_gather, gathers * tensor, gathers * bytes);
      } else {
        add(Collective::all_reduce, sums * tensor, 2 * sums * bytes);
      }
    }
  }
  if (context > 1) {
    const SequenceSharding sharding(sequence_length, context);
    for (int rank = 0; rank < tensor; ++rank) {
      add(Collective::ring_shift, config_.layers * context * (context - 1),
          config_.layers * ring_attention_bytes(sharding, batch, key_value_heads(rank),
                                                config_.head_dim, dtype));
    }
  }
  return expected;
}

std::vector<ProductShape> LlamaPlan::products(int rank, std::int64_t batch,
                                              std::int64_t sequence_length) const {
  const int shard = tensor_rank(rank);
  const std::int64_t m = batch * block_tokens(rank, sequence_length);
  const std::int64_t hidden = config_.hidden_size;
  const std::int64_t queries = query_heads(shard) * config_.head_dim;
  const std::int64_t keys = key_value_heads(shard) * config_.head_dim;
  const std::int64_t features = plan_.at(kGate).ranges[static_cast<std::size_t>(shard)].rows();
  return {{"attention in", m, queries + 2 * keys, hidden, config_.layers},
          {"attention out", m, hidden, queries, config_.layers},
          {"mlp in", m, 2 * features, hidden, config_.layers},
          {"mlp out", m, hidden, features, config_.layers},
          {"head", m, vocabulary(shard).rows(), hidden, 1}};
}

std::int64_t LlamaPlan::weight_bytes(int rank, DType dtype) const {
  return plan_.elements(tensor_rank(rank)) * static_cast<std::int64_t>(size_of(dtype));
}

std::int64_t LlamaPlan::activation_bytes(int rank, std::int64_t batch, std::int64_t sequence_length,
                                         DType dtype) const {
  const auto size = static_cast<std::int64_t>(size_of(dtype));
  const std::int64_t m = batch * block_tokens(rank, sequence_length);
  const std::int64_t hidden = config_.hidden_size;
  const std::vector<ProductShape> shapes = products(rank, batch, sequence_length);
  const std::int64_t fused_qkv = m * shapes[0].n;
  const std::int64_t attention_out = m * shapes[1].k;
  const std::int64_t gate_up = m * shapes[2].n;
  const std::int64_t activated = m * shapes[3].k;
  const std::int64_t logits = m * shapes[4].n;
  const std::int64_t local = batch * residual_tokens(rank, sequence_length) * hidden;
  const int ranks = layout_.mesh.tensor;
  const bool windows = ranks > 1;
  // The residual stream starts as the embedding's sum, which stays in its window without sequence
  // parallelism.
  const bool residual_in_window = windows && !layout_.sequence_parallel;
  const std::int64_t always = local + (residual_in_window ? 0 : local);  // normed, residual
  const std::int64_t gathered = windows && layout_.sequence_parallel ? m * hidden : 0;
  const std::int64_t partial = windows ? 0 : m * hidden;
  const std::int64_t reduced = windows && layout_.sequence_parallel ? local : 0;
  std::int64_t ring = 0;
  std::int64_t window_elements = windows ? ranks * m * hidden * (residual_in_window ? 2 : 1) : 0;
  if (layout_.mesh.context > 1) {
    const SequenceSharding sharding(sequence_length, layout_.mesh.context);
    const std::int64_t block = 2 * batch * sharding.largest_local_tokens() *
                               key_value_heads(tensor_rank(rank)) * config_.head_dim;
    window_elements += layout_.mesh.context * block;
    ring = 2 * attention_out * 4 / size;  // two f32 partial results
  }
  const std::int64_t peak = std::max(
      {gathered + fused_qkv, fused_qkv + attention_out + ring, attention_out + partial + reduced,
       gathered + gate_up, gate_up + activated, activated + partial + reduced, gathered + logits});
  return (always + peak + window_elements) * size;
}

}  // namespace portolan
