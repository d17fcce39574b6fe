// SPDX-License-Identifier: Apache-2.0
#include "models/gpt_bigcode.hpp"

#include "core/backend.hpp"
#include "models/layer_loader.hpp"

namespace portolan {

GptBigCode::GptBigCode(const ModelSetup& setup) : Model(setup, NormPlace::before) {
  const ProfilingRegion region(setup.device, "Portolan::GptBigCode::load");
  constexpr auto kWith = LayerLoader::Bias::with;
  const auto& config = plan().config().as<GptBigCodeConfig>();
  const double epsilon = config.layer_norm_epsilon;
  LayerLoader load(setup);
  embedding_ = load.embedding();
  positions_ = load.shards().plain("transformer.wpe.weight");
  layers_.reserve(static_cast<std::size_t>(config.layers));
  for (std::int64_t index = 0; index < config.layers; ++index) {
    const auto name = [&](const char* suffix) { return plan().outline().in_layer(index, suffix); };
    functional::Norm attention_norm = load.layer_norm(name("ln_1"), epsilon);
    ColumnParallelLinear qkv =
        is_multi_query(config)
            ? load.column({name("attn.c_attn.weight[query]"), name("attn.c_attn.weight[key]"),
                           name("attn.c_attn.weight[value]")},
                          kWith)
            : load.column({name("attn.c_attn.weight[heads]")}, kWith);
    RowParallelLinear attention_out =
        load.row(name("attn.c_proj.weight"), plan().attention_is_sharded(), kWith);
    functional::Norm mlp_norm = load.layer_norm(name("ln_2"), epsilon);
    ColumnParallelLinear up = load.column({name("mlp.c_fc.weight")}, kWith);
    RowParallelLinear down = load.row(name("mlp.c_proj.weight"), plan().mlp_is_sharded(), kWith);
    layers_.push_back(
        {attention_norm, AttentionBlock(plan(), load.rank(), index, qkv, attention_out), mlp_norm,
         std::make_unique<GeluMlp>(up, down, config.activation, plan().mlp_is_sharded())});
  }
  final_norm_ = load.layer_norm("transformer.ln_f", epsilon);
  head_ = load.head(embedding_);
  adopt(load.shards());
}

Variable GptBigCode::embed(const ForwardPass& pass) const {
  return functional::add_embedding(Model::embed(pass), positions_,
                                   pass.between_blocks(pass.positions));
}

}  // namespace portolan
