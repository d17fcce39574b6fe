// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "core/dtype.hpp"
#include "core/gelu_kind.hpp"

/// Model configurations: what a Hugging Face config.json says, checked, and the presets.
namespace portolan {

enum class Architecture { llama, mistral, gpt_bigcode, roberta };

/// "llama", "mistral", "gpt_bigcode", "roberta": the model_type of config.json.
[[nodiscard]] std::string_view name_of(Architecture architecture);

/// Plain rotary frequencies theta^(-2i / head_dim).
struct NoRopeScaling {
  bool operator==(const NoRopeScaling&) const = default;
};

/// All frequencies divided by `factor`.
struct LinearRopeScaling {
  double factor = 1.0;
  bool operator==(const LinearRopeScaling&) const = default;
};

/// LLaMA 3.1: wavelengths longer than original_max_position_embeddings / low_freq_factor are
/// stretched by `factor`, those shorter than original_max_position_embeddings / high_freq_factor
/// are kept, and those between are blended.
struct Llama3RopeScaling {
  double factor = 8.0;
  double low_freq_factor = 1.0;
  double high_freq_factor = 4.0;
  std::int64_t original_max_position_embeddings = 8192;
  bool operator==(const Llama3RopeScaling&) const = default;
};

using RopeScaling = std::variant<NoRopeScaling, LinearRopeScaling, Llama3RopeScaling>;

/// What every architecture has.
struct CommonConfig {
  std::int64_t hidden_size = 0;
  std::int64_t intermediate_size = 0;
  std::int64_t layers = 0;
  std::int64_t attention_heads = 0;
  /// Width of one head.
  std::int64_t head_dim = 0;
  std::int64_t vocab_size = 0;
  std::int64_t max_position_embeddings = 0;
  bool tie_word_embeddings = false;
  /// torch_dtype or dtype as the file spells it, without "torch."; empty where it does not say.
  std::string dtype_name;
  /// The same where the engine has such an element type.
  std::optional<DType> dtype;
  std::optional<std::int64_t> bos_token_id;
  /// Generation ends at any of these.
  std::vector<std::int64_t> eos_token_ids;

  bool operator==(const CommonConfig&) const = default;
};

/// LLaMA 1 to 3 and Mistral: RMSNorm, rotary embedding, grouped-query attention, SwiGLU, no biases.
struct LlamaConfig : CommonConfig {
  /// Divides attention_heads.
  std::int64_t kv_heads = 0;
  double rms_norm_epsilon = 1e-6;
  double rope_theta = 10000.0;
  RopeScaling rope_scaling;
  /// A token sees itself and the sliding_window - 1 tokens before it.
  std::optional<std::int64_t> sliding_window;

  bool operator==(const LlamaConfig&) const = default;

  /// The same model with another number of layers; UsageError unless that is from 1 to
  /// kMaximumLayers.
  [[nodiscard]] LlamaConfig with_layers(std::int64_t count) const;
};

struct GptBigCodeConfig : CommonConfig {
  /// 1 with multi-query attention, else attention_heads.
  std::int64_t kv_heads = 1;
  double layer_norm_epsilon = 1e-5;
  GeluKind activation = GeluKind::tanh;

  bool operator==(const GptBigCodeConfig&) const = default;
};

struct RobertaConfig : CommonConfig {
  std::int64_t type_vocab_size = 1;
  /// Positions start at pad_token_id + 1.
  std::int64_t pad_token_id = 1;
  double layer_norm_epsilon = 1e-12;
  GeluKind activation = GeluKind::erf;

  bool operator==(const RobertaConfig&) const = default;
};

/// A config of any architecture.
struct ModelConfig {
  Architecture architecture = Architecture::llama;
  std::variant<LlamaConfig, GptBigCodeConfig, RobertaConfig> parameters;

  [[nodiscard]] const CommonConfig& common() const;
  /// LLaMA's or Mistral's config; UnsupportedError for other architectures.
  [[nodiscard]] const LlamaConfig& llama() const;

  bool operator==(const ModelConfig&) const = default;
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

/// Reads a config.json, in the style of published repositories (rope_theta, rope_scaling,
/// torch_dtype) or of transformers 5 (rope_parameters, dtype). Unknown fields are ignored; sizes
/// without which the model is not defined must be there. Throws InputError "PATH: field 'x':
/// expected ..., found ...".
[[nodiscard]] ModelConfig read_model_config(const std::filesystem::path& path);

/// The same from text; `source` starts the messages.
[[nodiscard]] ModelConfig parse_model_config(std::string_view text, const std::string& source);

/// The text of a config.json that says the same, in the style of published repositories. The
/// element type is written as dtype_name.
[[nodiscard]] std::string config_text(const LlamaConfig& config);

/// What config.json calls an element type: "float32", "bfloat16", ...
[[nodiscard]] std::string_view torch_name_of(DType dtype);

/// A built-in config: llama-7b, llama-13b, llama-70b (also 7b, 13b, 70b), llama-3-8b (8b),
/// llama-34m (34m), llama-bytes (bytes), tiny. UsageError for other names.
[[nodiscard]] LlamaConfig preset_config(std::string_view name);
/// Their full names.
[[nodiscard]] std::vector<std::string_view> preset_names();

/// A parameter as a checkpoint stores it: linear weights are [out, in].
struct ParameterShape {
  std::string name;
  std::vector<std::int64_t> shape;
  [[nodiscard]] std::int64_t elements() const;
  bool operator==(const ParameterShape&) const = default;
};

/// All parameters under their Hugging Face names, in the order of the forward pass. A tied weight
/// appears once, as the embedding.
[[nodiscard]] std::vector<ParameterShape> parameter_shapes(const LlamaConfig& config);
[[nodiscard]] std::vector<ParameterShape> parameter_shapes(const ModelConfig& config);

/// Number of parameters; a tied weight counts once.
[[nodiscard]] std::int64_t parameter_count(const LlamaConfig& config);
[[nodiscard]] std::int64_t parameter_count(const ModelConfig& config);

}  // namespace portolan
