// SPDX-License-Identifier: Apache-2.0
#include <nlohmann/json.hpp>

#include "models/config.hpp"

namespace portolan {
namespace {

void describe_scaling(const NoRopeScaling&, nlohmann::ordered_json&) {}

void describe_scaling(const LinearRopeScaling& scaling, nlohmann::ordered_json& config) {
  config["rope_scaling"] = {{"rope_type", "linear"}, {"factor", scaling.factor}};
}

void describe_scaling(const Llama3RopeScaling& scaling, nlohmann::ordered_json& config) {
  config["rope_scaling"] = {
      {"rope_type", "llama3"},
      {"factor", scaling.factor},
      {"low_freq_factor", scaling.low_freq_factor},
      {"high_freq_factor", scaling.high_freq_factor},
      {"original_max_position_embeddings", scaling.original_max_position_embeddings}};
}

}  // namespace

std::string_view torch_name_of(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return "float32";
    case DType::bf16:
      return "bfloat16";
    case DType::f16:
      return "float16";
    case DType::f64:
      return "float64";
    case DType::i32:
      return "int32";
    case DType::i64:
      return "int64";
    case DType::u8:
      return "uint8";
  }
  return "";
}

std::string config_text(const LlamaConfig& config) {
  const bool mistral = config.sliding_window.has_value();
  nlohmann::ordered_json json = {
      {"architectures", {mistral ? "MistralForCausalLM" : "LlamaForCausalLM"}},
      {"model_type", mistral ? "mistral" : "llama"},
      {"hidden_size", config.hidden_size},
      {"intermediate_size", config.intermediate_size},
      {"num_hidden_layers", config.layers},
      {"num_attention_heads", config.attention_heads},
      {"num_key_value_heads", config.kv_heads},
      {"head_dim", config.head_dim},
      {"vocab_size", config.vocab_size},
      {"max_position_embeddings", config.max_position_embeddings},
      {"hidden_act", "silu"},
      {"rms_norm_eps", config.rms_norm_epsilon},
      {"rope_theta", config.rope_theta},
      {"tie_word_embeddings", config.tie_word_embeddings},
      {"attention_bias", false},
      {"mlp_bias", false},
      {"torch_dtype", config.dtype_name}};
  std::visit([&json](const auto& scaling) { describe_scaling(scaling, json); },
             config.rope_scaling);
  if (mistral) json["sliding_window"] = *config.sliding_window;
  if (config.bos_token_id) json["bos_token_id"] = *config.bos_token_id;
  if (config.eos_token_ids.size() == 1) {
    json["eos_token_id"] = config.eos_token_ids.front();
  } else if (!config.eos_token_ids.empty()) {
    json["eos_token_id"] = config.eos_token_ids;
  }
  return json.dump(2) + "\n";
}

}  // namespace portolan
