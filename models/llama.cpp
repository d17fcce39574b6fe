// SPDX-License-Identifier: Apache-2.0
#include "models/llama.hpp"

#include "core/backend.hpp"
#include "models/layer_loader.hpp"

namespace portolan {

Llama::Llama(const ModelSetup& setup) : Model(setup, NormPlace::before) {
  const ProfilingRegion region(setup.device, "Portolan::Llama::load");
  const LlamaConfig& config = plan().config().llama();
  const auto bias = [](bool with) {
    return with ? LayerLoader::Bias::with : LayerLoader::Bias::none;
  };
  const auto attention_bias = bias(config.attention_bias);
  const auto mlp_bias = bias(config.mlp_bias);
  const AttentionKind kind{.rotary = std::make_shared<const RotaryTables>(
                               make_rotary_tables(config, maximum_length(), setup.device)),
                           .window = config.sliding_window.value_or(0)};
  LayerLoader load(setup);
  embedding_ = load.embedding();
  layers_.reserve(static_cast<std::size_t>(config.layers));
  for (std::int64_t index = 0; index < config.layers; ++index) {
    const auto name = [&](const char* suffix) { return plan().outline().in_layer(index, suffix); };
    functional::Norm attention_norm =
        load.rms_norm(name("input_layernorm"), config.rms_norm_epsilon);
    ColumnParallelLinear qkv =
        load.column({name("self_attn.q_proj.weight"), name("self_attn.k_proj.weight"),
                     name("self_attn.v_proj.weight")},
                    attention_bias);
    RowParallelLinear attention_out =
        load.row(name("self_attn.o_proj.weight"), plan().attention_is_sharded(), attention_bias);
    functional::Norm mlp_norm =
        load.rms_norm(name("post_attention_layernorm"), config.rms_norm_epsilon);
    ColumnParallelLinear gate_up =
        load.column({name("mlp.gate_proj.weight"), name("mlp.up_proj.weight")}, mlp_bias);
    RowParallelLinear down =
        load.row(name("mlp.down_proj.weight"), plan().mlp_is_sharded(), mlp_bias);
    layers_.push_back(
        {attention_norm, AttentionBlock(plan(), load.rank(), index, qkv, attention_out, kind),
         mlp_norm, std::make_unique<GatedMlp>(gate_up, down, plan().mlp_is_sharded())});
  }
  final_norm_ = load.rms_norm("model.norm", config.rms_norm_epsilon);
  head_ = load.head(embedding_);
  adopt(load.shards());
}

}  // namespace portolan
