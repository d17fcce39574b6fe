// SPDX-License-Identifier: Apache-2.0
#include <array>

#include "core/error.hpp"
#include "models/config_fields.hpp"
#include "models/roberta.hpp"

/// RoBERTa's, XLM-RoBERTa's and BERT's configs: fields, presets, parameters.
namespace portolan {
namespace {

constexpr std::string_view kRoberta = "roberta";
constexpr std::string_view kXlmRoberta = "xlm-roberta";
constexpr std::string_view kBert = "bert";

struct Preset {
  std::string_view name;
  std::string_view architecture;
  std::string_view variant;
  std::int64_t hidden_size;
  std::int64_t layers;
  std::int64_t attention_heads;
  std::int64_t vocab_size;
};

// RoBERTa (Y. Liu et al., 2019, arXiv:1907.11692); XLM-RoBERTa (A. Conneau et al., 2019,
// arXiv:1911.02116); BERT (J. Devlin et al., 2018, arXiv:1810.04805), uncased.
constexpr std::array<Preset, 7> kPresets{
    {{"roberta-base", kRoberta, "base", 768, 12, 12, 50265},
     {"roberta-large", kRoberta, "large", 1024, 24, 16, 50265},
     {"roberta-tiny", kRoberta, "tiny", 64, 2, 4, 256},
     {"xlm-roberta-base", kXlmRoberta, "base", 768, 12, 12, 250002},
     {"xlm-roberta-large", kXlmRoberta, "large", 1024, 24, 16, 250002},
     {"bert-base", kBert, "base", 768, 12, 12, 30522},
     {"bert-large", kBert, "large", 1024, 24, 16, 30522}}};

std::vector<ModelVariant> variants(std::string_view architecture) {
  const bool is_bert = architecture == kBert;
  std::vector<ModelVariant> result;
  for (const Preset& preset : kPresets) {
    if (preset.architecture != architecture) continue;
    RobertaConfig config;
    config.is_bert = is_bert;
    config.hidden_size = preset.hidden_size;
    config.intermediate_size = 4 * preset.hidden_size;
    config.layers = preset.layers;
    config.attention_heads = config.kv_heads = preset.attention_heads;
    config.head_dim = preset.hidden_size / preset.attention_heads;
    config.vocab_size = preset.vocab_size;
    config.max_position_embeddings = is_bert ? 512 : 514;
    config.type_vocab_size = is_bert ? 2 : 1;
    config.pad_token_id = is_bert ? 0 : 1;
    config.layer_norm_epsilon = is_bert ? 1e-12 : 1e-5;
    config.tie_word_embeddings = true;
    config.dtype_name = "float32";
    config.dtype = DType::f32;
    if (!is_bert) {
      config.bos_token_id = 0;
      config.eos_token_ids = {2};
    }
    result.push_back({std::string(preset.variant), std::string(preset.name),
                      ModelConfig(std::string(architecture), std::move(config))});
  }
  return result;
}

RobertaConfig read_roberta(const JsonObject& config, bool is_bert) {
  RobertaConfig result;
  result.is_bert = is_bert;
  read_sizes(config, result);
  result.kv_heads = result.attention_heads;
  result.head_dim = divide_heads(config, "num_attention_heads", "hidden_size", result);
  result.type_vocab_size = integer_or(config, "type_vocab_size", 1, kMaximumVocabSize, 2);
  result.pad_token_id =
      integer_or(config, "pad_token_id", 0, result.vocab_size - 1, is_bert ? 0 : 1);
  result.max_position_embeddings = config.integer("max_position_embeddings", 1, kMaximumPositions);
  if (result.max_position_embeddings <= first_position(result)) {
    config.fail("max_position_embeddings",
                fmt::format("more than {}, as positions start at pad_token_id + 1",
                            first_position(result)));
  }
  result.layer_norm_epsilon = positive_or(config, "layer_norm_eps", 1e-12);
  result.activation = read_gelu(config, "hidden_act", GeluKind::erf);
  if (config.has("position_embedding_type") &&
      config.text("position_embedding_type") != "absolute") {
    config.fail("position_embedding_type", "absolute");
  }
  require_off(config, "is_decoder");
  require_off(config, "add_cross_attention");
  result.tie_word_embeddings = boolean_or(config, "tie_word_embeddings", true);
  read_dtype_and_tokens(config, result);
  return result;
}

void write(const ModelConfig& model, nlohmann::ordered_json& out) {
  const auto& config = model.as<RobertaConfig>();
  out["hidden_size"] = config.hidden_size;
  out["intermediate_size"] = config.intermediate_size;
  out["num_hidden_layers"] = config.layers;
  out["num_attention_heads"] = config.attention_heads;
  out["vocab_size"] = config.vocab_size;
  out["type_vocab_size"] = config.type_vocab_size;
  out["max_position_embeddings"] = config.max_position_embeddings;
  out["position_embedding_type"] = "absolute";
  out["hidden_act"] = gelu_name(config.activation);
  out["layer_norm_eps"] = config.layer_norm_epsilon;
  out["pad_token_id"] = config.pad_token_id;
  out["tie_word_embeddings"] = config.tie_word_embeddings;
}

ModelOutline outline(const ModelConfig& model) {
  const auto& config = model.as<RobertaConfig>();
  const EncoderNames names = encoder_names(config);
  const bool tied = config.tie_word_embeddings;
  ModelOutline result{.parameters = {},
                      .layers = names.body + "encoder.layer.",
                      .embedding = names.body + "embeddings.word_embeddings.weight",
                      .head = tied ? names.body + "embeddings.word_embeddings.weight"
                                   : names.head + "decoder.weight",
                      .head_bias = names.head + (tied ? "bias" : "decoder.bias"),
                      .query = "attention.self.query.weight",
                      .key = "attention.self.key.weight",
                      .value = "attention.self.value.weight",
                      .attention_out = "attention.output.dense.weight",
                      .mlp_in = {"intermediate.dense.weight"},
                      .mlp_out = "output.dense.weight",
                      .head_products = {names.head_dense + ".weight"},
                      .causal = false,
                      .token_types = config.type_vocab_size,
                      .longest_sequence = config.max_position_embeddings - first_position(config)};
  const std::int64_t hidden = config.hidden_size;
  const std::string embeddings = names.body + "embeddings.";
  std::vector<ParameterShape>& shapes = result.parameters;
  const auto add_between = [&shapes](const std::string& name,
                                     const std::vector<std::int64_t>& shape) {
    add_with_bias(shapes, name, shape);
    (shapes.end() - 2)->between_blocks = shapes.back().between_blocks = true;
  };
  shapes.push_back({result.embedding, {config.vocab_size, hidden}});
  shapes.push_back(
      {embeddings + "position_embeddings.weight", {config.max_position_embeddings, hidden}, true});
  shapes.push_back(
      {embeddings + "token_type_embeddings.weight", {config.type_vocab_size, hidden}, true});
  add_between(embeddings + "LayerNorm", {hidden});
  for (std::int64_t layer = 0; layer < config.layers; ++layer) {
    const auto name = [&](const char* suffix) { return result.in_layer(layer, suffix); };
    add_with_bias(shapes, name("attention.self.query"), {hidden, hidden});
    add_with_bias(shapes, name("attention.self.key"), {hidden, hidden});
    add_with_bias(shapes, name("attention.self.value"), {hidden, hidden});
    add_with_bias(shapes, name("attention.output.dense"), {hidden, hidden});
    shapes.back().between_blocks = true;
    add_between(name("attention.output.LayerNorm"), {hidden});
    add_with_bias(shapes, name("intermediate.dense"), {config.intermediate_size, hidden});
    add_with_bias(shapes, name("output.dense"), {hidden, config.intermediate_size});
    shapes.back().between_blocks = true;
    add_between(name("output.LayerNorm"), {hidden});
  }
  add_between(names.head_dense, {hidden, hidden});
  add_between(names.head_norm, {hidden});
  shapes.push_back({result.head_bias, {config.vocab_size}});
  if (!tied) shapes.push_back({result.head, {config.vocab_size, hidden}});
  return result;
}

ModelArchitecture architecture(std::string_view name, std::string class_name) {
  ModelArchitecture result;
  result.name = name;
  result.classes = {std::move(class_name)};
  result.variants = variants(name);
  result.read_config = [name](const JsonObject& config) {
    return ModelConfig(std::string(name), read_roberta(config, name == kBert));
  };
  result.write_config = write;
  result.outline = outline;
  result.make = [](const ModelSetup& setup) { return std::make_unique<Roberta>(setup); };
  return result;
}

}  // namespace

EncoderNames encoder_names(const RobertaConfig& config) {
  if (config.is_bert) {
    return {"bert.", "cls.predictions.", "cls.predictions.transform.dense",
            "cls.predictions.transform.LayerNorm"};
  }
  return {"roberta.", "lm_head.", "lm_head.dense", "lm_head.layer_norm"};
}

std::int64_t first_position(const RobertaConfig& config) {
  return config.is_bert ? 0 : config.pad_token_id + 1;
}

ModelArchitecture roberta_architecture() { return architecture(kRoberta, "RobertaForMaskedLM"); }
ModelArchitecture xlm_roberta_architecture() {
  return architecture(kXlmRoberta, "XLMRobertaForMaskedLM");
}
ModelArchitecture bert_architecture() { return architecture(kBert, "BertForMaskedLM"); }

}  // namespace portolan
