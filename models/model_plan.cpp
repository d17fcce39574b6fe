// SPDX-License-Identifier: Apache-2.0
#include "models/model_plan.hpp"

#include <algorithm>
#include <span>

#include "core/error.hpp"
#include "models/registry.hpp"
#include "parallel/key_value_cache.hpp"

namespace portolan {
namespace {

/// What a plan deals of the parameters: parts of fused tensors by themselves.
std::vector<PlanParameter> plan_parameters(const ModelOutline& outline) {
  std::vector<PlanParameter> parameters;
  for (const ParameterShape& parameter : outline.parameters) {
    const Shape shape{std::span<const std::int64_t>(parameter.shape)};
    if (parameter.parts.empty()) {
      parameters.push_back({parameter.name, shape, parameter.between_blocks});
    }
    std::int64_t first = 0;
    for (const auto& [part, rows] : parameter.parts) {
      Shape part_shape = shape;
      part_shape[0] = rows;
      parameters.push_back({fmt::format("{}[{}]", parameter.name, part), part_shape,
                            parameter.between_blocks, parameter.name, shape, first});
      first += rows;
    }
  }
  return parameters;
}

void add_names(const ModelConfig& config, std::vector<std::string>& names) {
  for (const PlanParameter& parameter : plan_parameters(outline_of(config))) {
    names.push_back(parameter.name);
  }
}

/// One table of rules may serve several architectures, so patterns need not match this model; one
/// that matches no architecture is a mistake.
void check_patterns(const std::vector<PlanRule>& rules, const ModelConfig& config) {
  std::vector<std::string> names;
  add_names(config, names);
  if (!first_unmatched_pattern(rules, names)) return;
  for (const ModelArchitecture& architecture : model_architectures()) {
    for (const ModelVariant& variant : architecture.variants) {
      ModelConfig one_layer = variant.config.with_layers(1);
      CommonConfig& common = one_layer.common();
      for (const std::int64_t kv_heads : {common.kv_heads, common.attention_heads}) {
        for (const bool tied : {false, true}) {
          common.kv_heads = kv_heads;
          common.tie_word_embeddings = tied;
          add_names(one_layer, names);
        }
      }
    }
  }
  const std::optional<std::string> unmatched = first_unmatched_pattern(rules, names);
  require(!unmatched,
          "plan pattern '{}' matches no parameter of this model, nor of any other architecture",
          unmatched.value_or(""));
}

ResolvedPlan resolve(const CommonConfig& config, const ModelOutline& outline,
                     const ParallelLayout& layout, const std::vector<PlanRule>& rules) {
  const int ranks = layout.mesh.tensor;
  require(ranks <= config.attention_heads,
          "tensor parallelism deals {} query heads, so it takes at most {} ranks, found {}",
          config.attention_heads, config.attention_heads, ranks);
  const std::vector<PlanParameter> parameters = plan_parameters(outline);
  // One tensor-parallel rank holds everything, whatever the rules.
  if (ranks == 1) return resolve_plan({}, parameters, {}, 1);
  const Partition heads = Partition::even(config.attention_heads, ranks);
  const PlanAxes axes{
      {"query_heads", plan_axis(heads, config.head_dim)},
      {"key_value_heads",
       key_value_axis(heads, config.attention_heads, config.kv_heads, config.head_dim)},
      {"fused_heads", plan_axis(heads, 3 * config.head_dim)},
      {"intermediate", plan_axis(feature_partition(config.intermediate_size, ranks))},
      {"vocabulary", plan_axis(feature_partition(config.vocab_size, ranks))},
  };
  return resolve_plan(rules, parameters, axes, ranks);
}

}  // namespace

ModelPlan::ModelPlan(const ModelConfig& config, const ParallelLayout& layout,
                     const std::optional<std::vector<PlanRule>>& rules)
    : config_(config),
      outline_(outline_of(config)),
      layout_(layout),
      plan_(resolve(dimensions(), outline_, layout, rules ? *rules : plan_rules(config))) {
  if (rules) check_patterns(*rules, config);
  check_blocks();
  check_heads();
}

const PlannedParameter& ModelPlan::in_layer(std::string_view name) const {
  return plan_.at(outline_.in_layer(0, name));
}
const ShardRange& ModelPlan::range(std::string_view name, int rank) const {
  return in_layer(name).ranges[static_cast<std::size_t>(rank)];
}

void ModelPlan::check_blocks() const {
  // `rows` output features of the first matrix make `columns` input features of the second.
  const auto require_pair = [this](const std::string& out, std::int64_t rows, const std::string& in,
                                   std::int64_t columns) {
    const PlannedParameter& first = plan_.at(out);
    const PlannedParameter& second = plan_.at(in);
    for (std::size_t rank = 0; rank < first.ranges.size(); ++rank) {
      const ShardRange& outputs = first.ranges[rank];
      const ShardRange& inputs = second.ranges[rank];
      require(outputs.row_begin * columns == inputs.column_begin * rows &&
                  outputs.row_end * columns == inputs.column_end * rows,
              "the plan cuts {} and {} at different places: output features [{}, {}) against input "
              "features [{}, {}) on rank {}",
              out, in, outputs.row_begin, outputs.row_end, inputs.column_begin, inputs.column_end,
              rank);
    }
  };
  for (std::int64_t layer = 0; layer < dimensions().layers; ++layer) {
    const auto name = [&](std::string_view suffix) { return outline_.in_layer(layer, suffix); };
    require_pair(name(outline_.query), query_rows(), name(outline_.attention_out),
                 dimensions().head_dim);
    for (const std::string& in : outline_.mlp_in) {
      require_pair(name(in), 1, name(outline_.mlp_out), 1);
    }
  }
  check_biases();
  // Layers are alike.
  for (const PlannedParameter& parameter : plan_.parameters()) {
    if (!parameter.name.starts_with(outline_.layers)) continue;
    const std::string_view rest = std::string_view(parameter.name).substr(outline_.layers.size());
    const PlannedParameter& first = in_layer(rest.substr(rest.find('.') + 1));
    require(parameter.ranges == first.ranges, "the plan cuts {} differently from {}",
            parameter.name, first.name);
  }
}

void ModelPlan::check_biases() const {
  constexpr std::string_view kBias = ".bias";
  for (const PlannedParameter& bias : plan_.parameters()) {
    const std::size_t at = bias.name.rfind(kBias);
    if (at == std::string::npos) continue;
    std::string name = bias.name;
    const PlannedParameter* weight = plan_.find(name.replace(at, kBias.size(), ".weight"));
    if (bias.name == outline_.head_bias) weight = plan_.find(outline_.head);
    if (weight == nullptr) continue;
    for (std::size_t rank = 0; rank < bias.ranges.size(); ++rank) {
      const ShardRange& own = bias.ranges[rank];
      const ShardRange& features = weight->ranges[rank];
      require(own.row_begin == features.row_begin && own.row_end == features.row_end,
              "the plan cuts {} differently from the output features of {}", bias.name,
              weight->name);
    }
  }
}

void ModelPlan::check_heads() const {
  const CommonConfig& config = dimensions();
  const auto require_whole_heads = [&](const std::string& name, std::int64_t head_rows, int rank) {
    const ShardRange& rows = range(name, rank);
    require(rows.row_begin % head_rows == 0 && rows.row_end % head_rows == 0,
            "the plan gives rank {} rows [{}, {}) of {}, which are no whole heads of {}", rank,
            rows.row_begin, rows.row_end, name, head_rows);
  };
  for (int rank = 0; rank < layout_.mesh.tensor; ++rank) {
    require_whole_heads(outline_.query, query_rows(), rank);
    if (!heads_are_fused()) require_whole_heads(outline_.key, config.head_dim, rank);
    require(outline_.value.empty() || range(outline_.value, rank) == range(outline_.key, rank),
            "the plan cuts {} differently from {}", outline_.value, outline_.key);
    const std::int64_t group = config.attention_heads / config.kv_heads;
    const std::int64_t last = first_query_head(rank) + query_heads(rank) - 1;
    require(first_query_head(rank) / group >= first_key_value_head(rank) &&
                last / group < first_key_value_head(rank) + key_value_heads(rank),
            "the plan gives rank {} query heads [{}, {}] without the key/value heads they read",
            rank, first_query_head(rank), last);
  }
  for (const std::string& name : {outline_.embedding, outline_.head}) {
    for (const ShardRange& range : plan_.at(name).ranges) {
      require(range.columns() == config.hidden_size,
              "the plan must deal {} along the vocabulary or replicate it", name);
    }
  }
}

int ModelPlan::tensor_rank(int rank) const { return mesh_coordinates(layout_.mesh, rank).tensor; }

std::int64_t ModelPlan::query_rows() const {
  return (heads_are_fused() ? 3 : 1) * dimensions().head_dim;
}
std::int64_t ModelPlan::query_heads(int rank) const {
  return range(outline_.query, rank).rows() / query_rows();
}
std::int64_t ModelPlan::first_query_head(int rank) const {
  return range(outline_.query, rank).row_begin / query_rows();
}
std::int64_t ModelPlan::key_value_heads(int rank) const {
  if (heads_are_fused()) return query_heads(rank);
  return range(outline_.key, rank).rows() / dimensions().head_dim;
}
std::int64_t ModelPlan::first_key_value_head(int rank) const {
  if (heads_are_fused()) return first_query_head(rank);
  return range(outline_.key, rank).row_begin / dimensions().head_dim;
}
ShardRange ModelPlan::vocabulary(int rank) const {
  return plan_.at(outline_.head).ranges[static_cast<std::size_t>(rank)];
}

bool ModelPlan::embedding_is_sharded() const {
  return plan_.at(outline_.embedding).style == ShardStyle::vocabulary;
}
bool ModelPlan::attention_is_sharded() const {
  return in_layer(outline_.attention_out).style == ShardStyle::row;
}
bool ModelPlan::mlp_is_sharded() const {
  return in_layer(outline_.mlp_out).style == ShardStyle::row;
}

std::int64_t ModelPlan::block_tokens(int rank, std::int64_t sequence_length) const {
  return SequenceSharding(sequence_length, layout_.mesh.context)
      .local_tokens(mesh_coordinates(layout_.mesh, rank).context);
}

std::int64_t ModelPlan::residual_tokens(int rank, std::int64_t sequence_length) const {
  const std::int64_t tokens = block_tokens(rank, sequence_length);
  if (!layout_.sequence_parallel) return tokens;
  return Partition::even(tokens, layout_.mesh.tensor).share(tensor_rank(rank));
}

ExpectedCommunication ModelPlan::communication(std::int64_t batch, std::int64_t sequence_length,
                                               DType dtype) const {
  ExpectedCommunication expected{};
  const auto [data, context, tensor] = layout_.mesh;
  const auto add = [&expected, replicas = layout_.mesh.data](
                       Collective collective, std::int64_t calls, std::int64_t bytes) {
    ExpectedCollective& entry = expected[static_cast<std::size_t>(collective)];
    entry.calls += replicas * calls;
    entry.bytes += replicas * bytes;
  };
  if (tensor > 1) {
    const std::int64_t sums =
        (embedding_is_sharded() ? 1 : 0) +
        dimensions().layers * ((attention_is_sharded() ? 1 : 0) + (mlp_is_sharded() ? 1 : 0));
    const std::int64_t gathers = 2 * dimensions().layers + 1;
    for (int group = 0; group < context; ++group) {
      const std::int64_t tokens = block_tokens(group * tensor, sequence_length);
      const std::int64_t bytes = batch * tokens * dimensions().hidden_size *
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
      add(Collective::ring_shift, dimensions().layers * context * (context - 1),
          dimensions().layers * ring_attention_bytes(sharding, batch, key_value_heads(rank),
                                                     dimensions().head_dim, dtype));
    }
  }
  return expected;
}

std::vector<ProductShape> ModelPlan::products(int rank, std::int64_t batch,
                                              std::int64_t sequence_length) const {
  const int shard = tensor_rank(rank);
  const std::int64_t m = batch * block_tokens(rank, sequence_length);
  const std::int64_t hidden = dimensions().hidden_size;
  const std::int64_t queries = query_heads(shard) * dimensions().head_dim;
  const std::int64_t keys = key_value_heads(shard) * dimensions().head_dim;
  const std::int64_t features = range(outline_.mlp_in.front(), shard).rows();
  const auto fused = static_cast<std::int64_t>(outline_.mlp_in.size());
  std::vector<ProductShape> shapes{
      {"attention in", m, queries + 2 * keys, hidden, dimensions().layers},
      {"attention out", m, hidden, queries, dimensions().layers},
      {"mlp in", m, fused * features, hidden, dimensions().layers},
      {"mlp out", m, hidden, features, dimensions().layers},
      {"head", m, vocabulary(shard).rows(), hidden, 1}};
  for (const std::string& name : outline_.head_products) {
    const Shape& shape = plan_.at(name).shape;
    shapes.push_back(
        {"before the head", batch * residual_tokens(rank, sequence_length), shape[0], shape[1], 1});
  }
  return shapes;
}

std::int64_t ModelPlan::weight_bytes(int rank, DType dtype) const {
  return plan_.elements(tensor_rank(rank)) * static_cast<std::int64_t>(size_of(dtype));
}

std::int64_t ModelPlan::activation_bytes(int rank, std::int64_t batch, std::int64_t sequence_length,
                                         DType dtype, bool last_only) const {
  const auto size = static_cast<std::int64_t>(size_of(dtype));
  const std::int64_t m = batch * block_tokens(rank, sequence_length);
  const std::int64_t hidden = dimensions().hidden_size;
  const std::vector<ProductShape> shapes = products(rank, batch, sequence_length);
  const std::int64_t fused_qkv = m * shapes[0].n;
  const std::int64_t attention_out = m * shapes[1].k;
  const std::int64_t expanded = m * shapes[2].n;
  // A gated activation has a result of its own, others take the place of what they act on.
  const std::int64_t activated = outline_.mlp_in.size() > 1 ? m * shapes[3].k : 0;
  const std::int64_t mlp_result = m * shapes[3].k;
  const std::int64_t logits = (last_only ? batch : m) * shapes[4].n;
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
                               key_value_heads(tensor_rank(rank)) * dimensions().head_dim;
    window_elements += layout_.mesh.context * block;
    ring = 2 * attention_out * 4 / size;  // two f32 partial results
  }
  const std::int64_t peak =
      std::max({gathered + fused_qkv, fused_qkv + attention_out + ring,
                attention_out + partial + reduced, gathered + expanded, expanded + activated,
                mlp_result + partial + reduced, gathered + logits});
  return (always + peak + window_elements) * size;
}

std::int64_t ModelPlan::cache_bytes(int rank, std::int64_t batch, std::int64_t tokens,
                                    DType dtype) const {
  const std::int64_t held = KeyValueCache::most_local_tokens(tokens, layout_.mesh.context);
  return 2 * batch * held * dimensions().layers * key_value_heads(tensor_rank(rank)) *
         dimensions().head_dim * static_cast<std::int64_t>(size_of(dtype));
}

}  // namespace portolan
