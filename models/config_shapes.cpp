// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <numeric>

#include "models/config.hpp"

namespace portolan {
namespace {

using Shapes = std::vector<ParameterShape>;

/// Weight and bias of a linear layer or, with one extent, of a LayerNorm.
void add_with_bias(Shapes& shapes, const std::string& name, std::vector<std::int64_t> shape) {
  const std::int64_t out = shape.front();
  shapes.push_back({name + ".weight", std::move(shape)});
  shapes.push_back({name + ".bias", {out}});
}

Shapes gpt_bigcode_shapes(const GptBigCodeConfig& config) {
  const std::int64_t hidden = config.hidden_size;
  const std::int64_t qkv = hidden + 2 * config.kv_heads * config.head_dim;
  Shapes shapes{{"transformer.wte.weight", {config.vocab_size, hidden}},
                {"transformer.wpe.weight", {config.max_position_embeddings, hidden}}};
  for (std::int64_t layer = 0; layer < config.layers; ++layer) {
    const std::string prefix = fmt::format("transformer.h.{}.", layer);
    add_with_bias(shapes, prefix + "ln_1", {hidden});
    add_with_bias(shapes, prefix + "attn.c_attn", {qkv, hidden});
    add_with_bias(shapes, prefix + "attn.c_proj", {hidden, hidden});
    add_with_bias(shapes, prefix + "ln_2", {hidden});
    add_with_bias(shapes, prefix + "mlp.c_fc", {config.intermediate_size, hidden});
    add_with_bias(shapes, prefix + "mlp.c_proj", {hidden, config.intermediate_size});
  }
  add_with_bias(shapes, "transformer.ln_f", {hidden});
  if (!config.tie_word_embeddings) {
    shapes.push_back({"lm_head.weight", {config.vocab_size, hidden}});
  }
  return shapes;
}

Shapes roberta_shapes(const RobertaConfig& config) {
  const std::int64_t hidden = config.hidden_size;
  const std::string embeddings = "roberta.embeddings.";
  Shapes shapes{
      {embeddings + "word_embeddings.weight", {config.vocab_size, hidden}},
      {embeddings + "position_embeddings.weight", {config.max_position_embeddings, hidden}},
      {embeddings + "token_type_embeddings.weight", {config.type_vocab_size, hidden}}};
  add_with_bias(shapes, embeddings + "LayerNorm", {hidden});
  for (std::int64_t layer = 0; layer < config.layers; ++layer) {
    const std::string prefix = fmt::format("roberta.encoder.layer.{}.", layer);
    add_with_bias(shapes, prefix + "attention.self.query", {hidden, hidden});
    add_with_bias(shapes, prefix + "attention.self.key", {hidden, hidden});
    add_with_bias(shapes, prefix + "attention.self.value", {hidden, hidden});
    add_with_bias(shapes, prefix + "attention.output.dense", {hidden, hidden});
    add_with_bias(shapes, prefix + "attention.output.LayerNorm", {hidden});
    add_with_bias(shapes, prefix + "intermediate.dense", {config.intermediate_size, hidden});
    add_with_bias(shapes, prefix + "output.dense", {hidden, config.intermediate_size});
    add_with_bias(shapes, prefix + "output.LayerNorm", {hidden});
  }
  add_with_bias(shapes, "lm_head.dense", {hidden, hidden});
  add_with_bias(shapes, "lm_head.layer_norm", {hidden});
  shapes.push_back({"lm_head.bias", {config.vocab_size}});
  if (!config.tie_word_embeddings) {
    shapes.push_back({"lm_head.decoder.weight", {config.vocab_size, hidden}});
  }
  return shapes;
}

std::int64_t count(const Shapes& shapes) {
  std::int64_t total = 0;
  for (const ParameterShape& parameter : shapes) total += parameter.elements();
  return total;
}

}  // namespace

std::int64_t ParameterShape::elements() const {
  return std::accumulate(shape.begin(), shape.end(), std::int64_t{1}, std::multiplies<>());
}

Shapes parameter_shapes(const LlamaConfig& config) {
  const std::int64_t hidden = config.hidden_size;
  const std::int64_t query = config.attention_heads * config.head_dim;
  const std::int64_t key_value = config.kv_heads * config.head_dim;
  Shapes shapes{{"model.embed_tokens.weight", {config.vocab_size, hidden}}};
  for (std::int64_t layer = 0; layer < config.layers; ++layer) {
    const std::string prefix = fmt::format("model.layers.{}.", layer);
    shapes.push_back({prefix + "input_layernorm.weight", {hidden}});
    shapes.push_back({prefix + "self_attn.q_proj.weight", {query, hidden}});
    shapes.push_back({prefix + "self_attn.k_proj.weight", {key_value, hidden}});
    shapes.push_back({prefix + "self_attn.v_proj.weight", {key_value, hidden}});
    shapes.push_back({prefix + "self_attn.o_proj.weight", {hidden, query}});
    shapes.push_back({prefix + "post_attention_layernorm.weight", {hidden}});
    shapes.push_back({prefix + "mlp.gate_proj.weight", {config.intermediate_size, hidden}});
    shapes.push_back({prefix + "mlp.up_proj.weight", {config.intermediate_size, hidden}});
    shapes.push_back({prefix + "mlp.down_proj.weight", {hidden, config.intermediate_size}});
  }
  shapes.push_back({"model.norm.weight", {hidden}});
  if (!config.tie_word_embeddings) {
    shapes.push_back({"lm_head.weight", {config.vocab_size, hidden}});
  }
  return shapes;
}

Shapes parameter_shapes(const ModelConfig& config) {
  struct Visitor {
    Shapes operator()(const LlamaConfig& each) const { return parameter_shapes(each); }
    Shapes operator()(const GptBigCodeConfig& each) const { return gpt_bigcode_shapes(each); }
    Shapes operator()(const RobertaConfig& each) const { return roberta_shapes(each); }
  };
  return std::visit(Visitor{}, config.parameters);
}

std::int64_t parameter_count(const LlamaConfig& config) { return count(parameter_shapes(config)); }

std::int64_t parameter_count(const ModelConfig& config) { return count(parameter_shapes(config)); }

}  // namespace portolan
