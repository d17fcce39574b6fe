// SPDX-License-Identifier: Apache-2.0
#include "models/roberta.hpp"

#include "core/backend.hpp"
#include "models/layer_loader.hpp"

namespace portolan {

Roberta::Roberta(const ModelSetup& setup) : Model(setup, NormPlace::behind), head_dense_(nullptr) {
  const ProfilingRegion region(setup.device, "Portolan::Roberta::load");
  constexpr auto kWith = LayerLoader::Bias::with;
  const auto& config = plan().config().as<RobertaConfig>();
  const double epsilon = config.layer_norm_epsilon;
  const EncoderNames names = encoder_names(config);
  const std::string embeddings = names.body + "embeddings.";
  LayerLoader load(setup);
  embedding_ = load.embedding();
  positions_ = load.shards().plain(embeddings + "position_embeddings.weight");
  types_ = load.shards().plain(embeddings + "token_type_embeddings.weight");
  embedding_norm_ = load.layer_norm(embeddings + "LayerNorm", epsilon);
  layers_.reserve(static_cast<std::size_t>(config.layers));
  for (std::int64_t index = 0; index < config.layers; ++index) {
    const auto name = [&](const char* suffix) { return plan().outline().in_layer(index, suffix); };
    ColumnParallelLinear qkv =
        load.column({name("attention.self.query.weight"), name("attention.self.key.weight"),
                     name("attention.self.value.weight")},
                    kWith);
    RowParallelLinear attention_out =
        load.row(name("attention.output.dense.weight"), plan().attention_is_sharded(), kWith);
    functional::Norm attention_norm = load.layer_norm(name("attention.output.LayerNorm"), epsilon);
    ColumnParallelLinear up = load.column({name("intermediate.dense.weight")}, kWith);
    RowParallelLinear down = load.row(name("output.dense.weight"), plan().mlp_is_sharded(), kWith);
    functional::Norm mlp_norm = load.layer_norm(name("output.LayerNorm"), epsilon);
    layers_.push_back(
        {attention_norm, AttentionBlock(plan(), load.rank(), index, qkv, attention_out), mlp_norm,
         std::make_unique<GeluMlp>(up, down, config.activation, plan().mlp_is_sharded())});
  }
  head_dense_ = load.column({names.head_dense + ".weight"}, kWith);
  head_norm_ = load.layer_norm(names.head_norm, epsilon);
  const ParameterPointer head_bias = load.shards().plain(plan().outline().head_bias);
  head_ = ColumnParallelLinear(load.head(embedding_).weight(), head_bias);
  adopt(load.shards());
}

std::vector<std::int32_t> Roberta::positions(std::span<const std::int32_t> ids,
                                             const KeyRange& real_tokens) const {
  const auto& config = plan().config().as<RobertaConfig>();
  if (config.is_bert) return Model::positions(ids, real_tokens);
  const auto padding = static_cast<std::int32_t>(config.pad_token_id);
  std::vector<std::int32_t> positions(ids.size(), padding);
  std::int32_t last = padding;
  for (std::int64_t t = real_tokens.begin; t < real_tokens.end; ++t) {
    const auto at = static_cast<std::size_t>(t);
    if (ids[at] != padding) positions[at] = ++last;
  }
  return positions;
}

Variable Roberta::embed(const ForwardPass& pass) const {
  Variable sum = functional::add_embedding(Model::embed(pass), positions_,
                                           pass.between_blocks(pass.positions));
  sum = functional::add_embedding(sum, types_, pass.between_blocks(pass.token_types));
  return functional::normed(sum, embedding_norm_, pass.selective);
}

Variable Roberta::logits(const Variable& normed, const ForwardPass& pass) const {
  // Each rank does this for the tokens that it holds between blocks.
  const auto& config = plan().config().as<RobertaConfig>();
  const Variable dense =
      functional::gelu(head_dense_.forward(normed),
                       config.is_bert ? config.activation : GeluKind::erf, pass.selective);
  return Model::logits(functional::normed(dense, head_norm_, pass.selective), pass);
}

}  // namespace portolan
