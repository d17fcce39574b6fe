// SPDX-License-Identifier: Apache-2.0
#include <array>

#include "core/error.hpp"
#include "models/config_fields.hpp"
#include "models/config_rope.hpp"
#include "models/llama.hpp"

/// LLaMA's and Mistral's configs: fields, presets, parameters.
namespace portolan {
namespace {

struct Preset {
  std::string_view name;
  std::string_view variant;
  std::int64_t hidden_size;
  std::int64_t intermediate_size;
  std::int64_t layers;
  std::int64_t attention_heads;
  std::int64_t kv_heads;
  std::int64_t vocab_size;
  std::int64_t max_position_embeddings;
  double rope_theta;
  std::int64_t bos_token_id;
  std::int64_t eos_token_id;
};

// LLaMA 2 (H. Touvron et al., 2023), whose 7B and 13B have the sizes of LLaMA 1; LLaMA 3 (A.
// Grattafiori et al., 2024).
constexpr std::array<Preset, 8> kPresets{
    {{"llama-7b", "7b", 4096, 11008, 32, 32, 32, 32000, 4096, 10000.0, 1, 2},
     {"llama-13b", "13b", 5120, 13824, 40, 40, 40, 32000, 4096, 10000.0, 1, 2},
     {"llama-70b", "70b", 8192, 28672, 80, 64, 8, 32000, 4096, 10000.0, 1, 2},
     {"llama-3-8b", "8b", 4096, 14336, 32, 32, 8, 128256, 8192, 500000.0, 128000, 128001},
     // 1.1 billion parameters, read once per generated token in a twentieth of a second.
     {"llama-1b", "1b", 2048, 8192, 16, 32, 8, 32000, 4096, 10000.0, 1, 2},
     // Of sizes that train on two cores; the vocabulary of the second is the bytes.
     {"llama-34m", "34m", 512, 1376, 8, 8, 8, 8192, 2048, 10000.0, 1, 2},
     {"llama-bytes", "bytes", 256, 688, 4, 8, 8, 256, 2048, 10000.0, 1, 2},
     {"tiny", "tiny", 64, 176, 2, 4, 2, 256, 2048, 10000.0, 1, 2}}};

std::vector<ModelVariant> variants() {
  std::vector<ModelVariant> result;
  for (const Preset& preset : kPresets) {
    LlamaConfig config;
    config.hidden_size = preset.hidden_size;
    config.intermediate_size = preset.intermediate_size;
    config.layers = preset.layers;
    config.attention_heads = preset.attention_heads;
    config.kv_heads = preset.kv_heads;
    config.head_dim = preset.hidden_size / preset.attention_heads;
    config.vocab_size = preset.vocab_size;
    config.max_position_embeddings = preset.max_position_embeddings;
    config.rms_norm_epsilon = 1e-5;
    config.rope_theta = preset.rope_theta;
    config.dtype_name = "float32";
    config.dtype = DType::f32;
    config.bos_token_id = preset.bos_token_id;
    config.eos_token_ids = {preset.eos_token_id};
    result.push_back({std::string(preset.variant), std::string(preset.name), std::move(config)});
  }
  return result;
}

/// Layers are alike here; files may name the kind of each.
void require_like_layers(const JsonObject& config, bool windowed) {
  if (!config.has("layer_types")) return;
  const std::string expected = windowed ? "sliding_attention" : "full_attention";
  const nlohmann::json& kinds = *config.find("layer_types");
  if (!kinds.is_array()) config.fail("layer_types", "a list");
  for (const nlohmann::json& kind : kinds) {
    if (kind == expected) continue;
    config.refuse("layer_types",
                  fmt::format("expected {} for every layer, found {}", expected, describe(kind)));
  }
}

LlamaConfig read_llama(const JsonObject& config, bool mistral) {
  LlamaConfig result;
  read_sizes(config, result);

  if (mistral && config.find("num_key_value_heads") == nullptr) {
    config.fail("num_key_value_heads", "an integer");
  }
  result.kv_heads =
      integer_or(config, "num_key_value_heads", 1, kMaximumHeads, result.attention_heads);
  if (result.attention_heads % result.kv_heads != 0) {
    config.fail("num_key_value_heads",
                fmt::format("a divisor of num_attention_heads ({})", result.attention_heads));
  }

  const bool head_dim_given = config.has("head_dim");
  result.head_dim = head_dim_given
                        ? config.integer("head_dim", 1, kMaximumHeadDim)
                        : divide_heads(config, "num_attention_heads", "hidden_size", result);
  if (result.head_dim % 2 != 0) {
    config.refuse(head_dim_given ? "head_dim" : "num_attention_heads",
                  fmt::format("expected an even width of heads, as rotary embedding turns pairs, "
                              "found {}",
                              result.head_dim));
  }

  result.max_position_embeddings =
      integer_or(config, "max_position_embeddings", 1, kMaximumPositions, mistral ? 131072 : 2048);
  result.rms_norm_epsilon = positive_or(config, "rms_norm_eps", 1e-6);
  read_rope(config, result);
  if (config.has("hidden_act")) {
    const std::string activation = config.text("hidden_act");
    if (activation != "silu" && activation != "swish") config.fail("hidden_act", "silu");
  }
  if (mistral) {
    require_off(config, "attention_bias");
    require_off(config, "mlp_bias");
  }
  result.attention_bias = boolean_or(config, "attention_bias", false);
  result.mlp_bias = boolean_or(config, "mlp_bias", false);
  result.tie_word_embeddings = boolean_or(config, "tie_word_embeddings", false);
  if (mistral) {
    // An absent window means the first Mistral's; null means none.
    if (config.find("sliding_window") == nullptr) {
      result.sliding_window = 4096;
    } else if (config.has("sliding_window")) {
      result.sliding_window = config.integer("sliding_window", 1, kMaximumPositions);
    }
  }
  require_like_layers(config, result.sliding_window.has_value());
  read_dtype_and_tokens(config, result);
  return result;
}

void write(const ModelConfig& model, nlohmann::ordered_json& out) {
  const LlamaConfig& config = model.llama();
  out["hidden_size"] = config.hidden_size;
  out["intermediate_size"] = config.intermediate_size;
  out["num_hidden_layers"] = config.layers;
  out["num_attention_heads"] = config.attention_heads;
  out["num_key_value_heads"] = config.kv_heads;
  out["head_dim"] = config.head_dim;
  out["vocab_size"] = config.vocab_size;
  out["max_position_embeddings"] = config.max_position_embeddings;
  out["hidden_act"] = "silu";
  out["rms_norm_eps"] = config.rms_norm_epsilon;
  out["rope_theta"] = config.rope_theta;
  out["tie_word_embeddings"] = config.tie_word_embeddings;
  out["attention_bias"] = config.attention_bias;
  out["mlp_bias"] = config.mlp_bias;
  nlohmann::ordered_json scaling = rope_scaling_fields(config.rope_scaling);
  if (!scaling.empty()) out["rope_scaling"] = std::move(scaling);
  if (model.architecture == "mistral") {
    // An absent window would mean the first Mistral's.
    out["sliding_window"] = config.sliding_window ? nlohmann::ordered_json(*config.sliding_window)
                                                  : nlohmann::ordered_json(nullptr);
  }
}

ModelOutline outline(const ModelConfig& model) {
  const LlamaConfig& config = model.llama();
  ModelOutline result{
      .parameters = {},
      .layers = "model.layers.",
      .embedding = "model.embed_tokens.weight",
      .head = config.tie_word_embeddings ? "model.embed_tokens.weight" : "lm_head.weight",
      .query = "self_attn.q_proj.weight",
      .key = "self_attn.k_proj.weight",
      .value = "self_attn.v_proj.weight",
      .attention_out = "self_attn.o_proj.weight",
      .mlp_in = {"mlp.gate_proj.weight", "mlp.up_proj.weight"},
      .mlp_out = "mlp.down_proj.weight"};
  if (std::holds_alternative<DynamicRopeScaling>(config.rope_scaling)) {
    result.longest_sequence = config.max_position_embeddings;
  }
  const std::int64_t hidden = config.hidden_size;
  const std::int64_t query = config.attention_heads * config.head_dim;
  const std::int64_t key_value = config.kv_heads * config.head_dim;
  std::vector<ParameterShape>& shapes = result.parameters;
  shapes.push_back({result.embedding, {config.vocab_size, hidden}});
  for (std::int64_t layer = 0; layer < config.layers; ++layer) {
    const auto name = [&](const char* suffix) { return result.in_layer(layer, suffix); };
    const auto add = [&](const char* suffix, std::int64_t outputs, std::int64_t inputs, bool bias) {
      shapes.push_back({name(suffix) + ".weight", {outputs, inputs}});
      if (bias) shapes.push_back({name(suffix) + ".bias", {outputs}});
    };
    shapes.push_back({name("input_layernorm.weight"), {hidden}, true});
    add("self_attn.q_proj", query, hidden, config.attention_bias);
    add("self_attn.k_proj", key_value, hidden, config.attention_bias);
    add("self_attn.v_proj", key_value, hidden, config.attention_bias);
    add("self_attn.o_proj", hidden, query, config.attention_bias);
    shapes.back().between_blocks = config.attention_bias;
    shapes.push_back({name("post_attention_layernorm.weight"), {hidden}, true});
    add("mlp.gate_proj", config.intermediate_size, hidden, config.mlp_bias);
    add("mlp.up_proj", config.intermediate_size, hidden, config.mlp_bias);
    add("mlp.down_proj", hidden, config.intermediate_size, config.mlp_bias);
    shapes.back().between_blocks = config.mlp_bias;
  }
  shapes.push_back({"model.norm.weight", {hidden}, true});
  if (!config.tie_word_embeddings) shapes.push_back({result.head, {config.vocab_size, hidden}});
  return result;
}

ModelArchitecture architecture(std::string name, bool mistral) {
  ModelArchitecture result;
  result.name = std::move(name);
  result.read_config = [mistral](const JsonObject& config) {
    return ModelConfig(mistral ? "mistral" : "llama", read_llama(config, mistral));
  };
  result.write_config = write;
  result.outline = outline;
  result.make = [](const ModelSetup& setup) { return std::make_unique<Llama>(setup); };
  return result;
}

}  // namespace

ModelArchitecture llama_architecture() {
  ModelArchitecture result = architecture("llama", false);
  // The second is the spelling of early repositories.
  result.classes = {"LlamaForCausalLM", "LLaMAForCausalLM"};
  result.variants = variants();
  return result;
}

ModelArchitecture mistral_architecture() {
  ModelArchitecture result = architecture("mistral", true);
  result.classes = {"MistralForCausalLM"};
  return result;
}

}  // namespace portolan
