// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "core/dtype.hpp"
#include "core/gelu_kind.hpp"
#include "models/rope_scaling.hpp"

/// Model configurations: what a Hugging Face config.json says, checked, and the presets.
namespace portolan {

/// What every architecture has.
struct CommonConfig {
  std::int64_t hidden_size = 0;
  std::int64_t intermediate_size = 0;
  std::int64_t layers = 0;
  std::int64_t attention_heads = 0;
  /// Key/value heads; divides attention_heads.
  std::int64_t kv_heads = 0;
  /// Width of one head.
  std::int64_t head_dim = 0;
  std::int64_t vocab_size = 0;
  std::int64_t max_position_embeddings = 0;
  bool tie_word_embeddings = false;
  /// torch_dtype or dtype as the file spells it, without "torch."; empty where it does not say.
  std::string dtype_name;
  /// The same where the engine has such an element type.
  std::optional<DType> dtype;
  /// What quantization_config says the weights were quantized by; empty: it is not there.
  std::string quantization_method;
  std::optional<std::int64_t> bos_token_id;
  /// Generation ends at any of these.
  std::vector<std::int64_t> eos_token_ids;

  bool operator==(const CommonConfig&) const = default;
};

/// LLaMA 1 to 3 and Mistral: RMSNorm, rotary embedding, grouped-query attention, SwiGLU.
struct LlamaConfig : CommonConfig {
  double rms_norm_epsilon = 1e-6;
  double rope_theta = 10000.0;
  RopeScaling rope_scaling;
  /// A token sees itself and the sliding_window - 1 tokens before it.
  std::optional<std::int64_t> sliding_window;
  /// Whether the four products of attention, and the three of the MLP, have biases.
  bool attention_bias = false;
  bool mlp_bias = false;

  bool operator==(const LlamaConfig&) const = default;
};

/// StarCoder's family: LayerNorm, learned positions, multi-query attention, GELU, biases.
struct GptBigCodeConfig : CommonConfig {
  double layer_norm_epsilon = 1e-5;
  GeluKind activation = GeluKind::tanh;

  bool operator==(const GptBigCodeConfig&) const = default;
};

/// RoBERTa, XLM-RoBERTa and BERT with a masked-language-model head: encoders with LayerNorm behind
/// each block.
struct RobertaConfig : CommonConfig {
  std::int64_t type_vocab_size = 1;
  std::int64_t pad_token_id = 1;
  double layer_norm_epsilon = 1e-12;
  GeluKind activation = GeluKind::erf;
  /// BERT's names of parameters, and positions from 0; RoBERTa's start at pad_token_id + 1.
  bool is_bert = false;

  bool operator==(const RobertaConfig&) const = default;
};

/// An architecture that a program has registered (models/registry.hpp): its own fields as they are
/// in config.json.
struct ExternalConfig : CommonConfig {
  nlohmann::json fields;

  bool operator==(const ExternalConfig&) const = default;
};

/// A config of any architecture.
struct ModelConfig {
  /// The model_type of config.json, under which the registry knows the architecture.
  std::string architecture = "llama";
  std::variant<LlamaConfig, GptBigCodeConfig, RobertaConfig, ExternalConfig> parameters;

  ModelConfig() = default;
  template <typename Parameters>
  ModelConfig(std::string name, Parameters each)
      : architecture(std::move(name)), parameters(std::move(each)) {}
  // NOLINTBEGIN(google-explicit-constructor): each of these says which architecture it is.
  ModelConfig(LlamaConfig each)
      : ModelConfig(each.sliding_window ? "mistral" : "llama", std::move(each)) {}
  ModelConfig(GptBigCodeConfig each) : ModelConfig("gpt_bigcode", std::move(each)) {}
  ModelConfig(RobertaConfig each)
      : ModelConfig(each.is_bert ? "bert" : "roberta", std::move(each)) {}
  // NOLINTEND(google-explicit-constructor)

  [[nodiscard]] const CommonConfig& common() const;
  [[nodiscard]] CommonConfig& common();
  /// The parameters as those of one family; UnsupportedError for others.
  template <typename Parameters>
  [[nodiscard]] const Parameters& as() const {
    const auto* found = std::get_if<Parameters>(&parameters);
    if (found == nullptr) refuse_family();
    return *found;
  }
  /// LLaMA's or Mistral's config.
  [[nodiscard]] const LlamaConfig& llama() const { return as<LlamaConfig>(); }
  /// The same model with another number of layers; UsageError unless that is from 1 to
  /// kMaximumLayers. Without a number, the same model.
  [[nodiscard]] ModelConfig with_layers(std::optional<std::int64_t> count) const;

  bool operator==(const ModelConfig&) const = default;

 private:
  [[noreturn]] void refuse_family() const;
};

/// Bounds of what a config may ask for, far beyond any published model: every size and byte count
/// computed from a config within them fits 63 bits.
constexpr std::int64_t kMaximumHiddenSize = std::int64_t{1} << 20;
constexpr std::int64_t kMaximumIntermediateSize = std::int64_t{1} << 22;
constexpr std::int64_t kMaximumLayers = 4096;
constexpr std::int64_t kMaximumHeads = std::int64_t{1} << 16;
constexpr std::int64_t kMaximumHeadDim = 256;
constexpr std::int64_t kMaximumVocabSize = std::int64_t{1} << 27;
constexpr std::int64_t kMaximumPositions = std::int64_t{1} << 30;

/// Reads a config.json of a registered architecture, in the style of published repositories
/// (rope_theta, rope_scaling, torch_dtype) or of transformers 5 (rope_parameters, dtype). Unknown
/// fields are ignored; sizes without which the model is not defined must be there. Throws
/// InputError "PATH: field 'x': expected ..., found ...".
[[nodiscard]] ModelConfig read_model_config(const std::filesystem::path& path);

/// The same from text; `source` starts the messages.
[[nodiscard]] ModelConfig parse_model_config(std::string_view text, const std::string& source);

/// The text of a config.json that says the same, in the style of published repositories. The
/// element type is written as dtype_name.
[[nodiscard]] std::string config_text(const ModelConfig& config);

/// What config.json calls an element type: "float32", "bfloat16", ...
[[nodiscard]] std::string_view torch_name_of(DType dtype);

/// A built-in config of any registered architecture, by its full name (llama-7b, roberta-base) or
/// its short one (7b). UsageError for other names.
[[nodiscard]] ModelConfig preset_config(std::string_view name);
/// Their full names.
[[nodiscard]] std::vector<std::string> preset_names();

/// A parameter as a checkpoint stores it: linear weights are [out, in].
struct ParameterShape {
  std::string name;
  std::vector<std::int64_t> shape;
  /// Used between blocks, where sequence parallelism deals tokens (parallel/plan.hpp).
  bool between_blocks = false;
  /// Parts of a fused tensor that a plan deals by themselves as "name[part]", and their rows.
  std::vector<std::pair<std::string, std::int64_t>> parts = {};
  [[nodiscard]] std::int64_t elements() const;
  bool operator==(const ParameterShape&) const = default;
};

/// All parameters under their Hugging Face names, in the order of the forward pass. A tied weight
/// appears once, as the embedding.
[[nodiscard]] std::vector<ParameterShape> parameter_shapes(const ModelConfig& config);

/// Number of parameters; a tied weight counts once.
[[nodiscard]] std::int64_t parameter_count(const ModelConfig& config);

}  // namespace portolan
