// SPDX-License-Identifier: Apache-2.0
#include <array>

#include "core/error.hpp"
#include "models/config_fields.hpp"
#include "models/gpt_bigcode.hpp"

/// GPT-BigCode's config: fields, presets, parameters.
namespace portolan {
namespace {

struct Preset {
  std::string_view name;
  std::string_view variant;
  std::int64_t hidden_size;
  std::int64_t intermediate_size;
  std::int64_t layers;
  std::int64_t attention_heads;
  std::int64_t vocab_size;
  std::int64_t max_position_embeddings;
};

// StarCoder (R. Li et al., 2023) and its smaller bases; SantaCoder (L. Ben Allal et al., 2023).
constexpr std::array<Preset, 6> kPresets{
    {{"starcoder", "starcoder", 6144, 24576, 40, 48, 49152, 8192},
     {"starcoder-7b", "starcoder-7b", 4096, 16384, 42, 32, 49152, 8192},
     {"starcoder-3b", "starcoder-3b", 2816, 11264, 36, 22, 49152, 8192},
     {"starcoder-1b", "starcoder-1b", 2048, 8192, 24, 16, 49152, 8192},
     {"santacoder", "santacoder", 2048, 8192, 24, 16, 49280, 2048},
     {"gpt-bigcode-tiny", "tiny", 64, 256, 2, 4, 256, 2048}}};

std::vector<ModelVariant> variants() {
  std::vector<ModelVariant> result;
  for (const Preset& preset : kPresets) {
    GptBigCodeConfig config;
    config.hidden_size = preset.hidden_size;
    config.intermediate_size = preset.intermediate_size;
    config.layers = preset.layers;
    config.attention_heads = preset.attention_heads;
    config.kv_heads = 1;
    config.head_dim = preset.hidden_size / preset.attention_heads;
    config.vocab_size = preset.vocab_size;
    config.max_position_embeddings = preset.max_position_embeddings;
    config.tie_word_embeddings = true;
    config.dtype_name = "float32";
    config.dtype = DType::f32;
    config.bos_token_id = 0;
    config.eos_token_ids = {0};
    result.push_back({std::string(preset.variant), std::string(preset.name), std::move(config)});
  }
  return result;
}

GptBigCodeConfig read_gpt_bigcode(const JsonObject& config) {
  GptBigCodeConfig result;
  result.hidden_size = config.integer("n_embd", 1, kMaximumHiddenSize);
  result.layers = config.integer("n_layer", 1, kMaximumLayers);
  result.attention_heads = config.integer("n_head", 1, kMaximumHeads);
  result.head_dim = divide_heads(config, "n_head", "n_embd", result);
  result.intermediate_size =
      integer_or(config, "n_inner", 1, kMaximumIntermediateSize, 4 * result.hidden_size);
  result.vocab_size = config.integer("vocab_size", 1, kMaximumVocabSize);
  result.max_position_embeddings = config.integer("n_positions", 1, kMaximumPositions);
  result.kv_heads = boolean_or(config, "multi_query", true) ? 1 : result.attention_heads;
  result.layer_norm_epsilon = positive_or(config, "layer_norm_epsilon", 1e-5);
  result.activation = read_gelu(config, "activation_function", GeluKind::tanh);
  if (!boolean_or(config, "scale_attn_weights", true)) {
    config.fail("scale_attn_weights", "true (the only form supported)");
  }
  require_off(config, "add_cross_attention");
  result.tie_word_embeddings = boolean_or(config, "tie_word_embeddings", true);
  read_dtype_and_tokens(config, result);
  return result;
}

void write(const ModelConfig& model, nlohmann::ordered_json& out) {
  const auto& config = model.as<GptBigCodeConfig>();
  out["n_embd"] = config.hidden_size;
  out["n_inner"] = config.intermediate_size;
  out["n_layer"] = config.layers;
  out["n_head"] = config.attention_heads;
  out["multi_query"] = config.kv_heads == 1;
  out["vocab_size"] = config.vocab_size;
  out["n_positions"] = config.max_position_embeddings;
  out["activation_function"] = gelu_name(config.activation);
  out["layer_norm_epsilon"] = config.layer_norm_epsilon;
  out["scale_attn_weights"] = true;
  out["tie_word_embeddings"] = config.tie_word_embeddings;
}

ModelOutline outline(const ModelConfig& model) {
  const auto& config = model.as<GptBigCodeConfig>();
  const std::int64_t hidden = config.hidden_size;
  const std::int64_t head_dim = config.head_dim;
  // One key and one value head follow all queries; with as many as queries, the three parts of each
  // head lie side by side.
  const bool multi_query = is_multi_query(config);
  ModelOutline result{
      .parameters = {},
      .layers = "transformer.h.",
      .embedding = "transformer.wte.weight",
      .head = config.tie_word_embeddings ? "transformer.wte.weight" : "lm_head.weight",
      .query = multi_query ? "attn.c_attn.weight[query]" : "attn.c_attn.weight[heads]",
      .key = multi_query ? "attn.c_attn.weight[key]" : "",
      .value = multi_query ? "attn.c_attn.weight[value]" : "",
      .attention_out = "attn.c_proj.weight",
      .mlp_in = {"mlp.c_fc.weight"},
      .mlp_out = "mlp.c_proj.weight",
      .longest_sequence = config.max_position_embeddings};
  std::vector<ParameterShape>& shapes = result.parameters;
  shapes.push_back({result.embedding, {config.vocab_size, hidden}});
  shapes.push_back({"transformer.wpe.weight", {config.max_position_embeddings, hidden}, true});
  for (std::int64_t layer = 0; layer < config.layers; ++layer) {
    const auto add = [&](const char* name, std::vector<std::int64_t> shape) {
      add_with_bias(shapes, result.in_layer(layer, name), std::move(shape));
    };
    add("ln_1", {hidden});
    add("attn.c_attn", {hidden + 2 * config.kv_heads * head_dim, hidden});
    for (std::size_t i = shapes.size() - 2; i < shapes.size(); ++i) {
      if (multi_query) {
        shapes[i].parts = {{"query", hidden}, {"key", head_dim}, {"value", head_dim}};
      } else {
        shapes[i].parts = {{"heads", 3 * hidden}};
      }
    }
    add("attn.c_proj", {hidden, hidden});
    add("ln_2", {hidden});
    add("mlp.c_fc", {config.intermediate_size, hidden});
    add("mlp.c_proj", {hidden, config.intermediate_size});
  }
  add_with_bias(shapes, "transformer.ln_f", {hidden});
  for (ParameterShape& shape : shapes) {
    const std::string_view name = shape.name;
    if (name.find("ln_") != name.npos || name.ends_with("c_proj.bias")) shape.between_blocks = true;
  }
  if (!config.tie_word_embeddings) shapes.push_back({result.head, {config.vocab_size, hidden}});
  return result;
}

}  // namespace

bool is_multi_query(const GptBigCodeConfig& config) {
  return config.kv_heads == 1 && config.attention_heads > 1;
}

ModelArchitecture gpt_bigcode_architecture() {
  ModelArchitecture result;
  result.name = "gpt_bigcode";
  // The second is what files name that were made before transformers had the architecture.
  result.classes = {"GPTBigCodeForCausalLM", "GPTBigCodeLMHeadModel"};
  result.variants = variants();
  result.read_config = [](const JsonObject& config) { return read_gpt_bigcode(config); };
  result.write_config = write;
  result.outline = outline;
  result.make = [](const ModelSetup& setup) { return std::make_unique<GptBigCode>(setup); };
  return result;
}

}  // namespace portolan
