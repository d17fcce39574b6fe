// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <functional>
#include <string>

#include "core/error.hpp"
#include "core/json_file.hpp"
#include "core/mapped_file.hpp"
#include "core/printable.hpp"
#include "models/config.hpp"
#include "models/config_rope.hpp"

namespace portolan {
namespace {

struct ArchitectureName {
  Architecture architecture;
  std::string_view model_type;
  /// What `architectures` calls it. The second spelling is that of early LLaMA repositories.
  std::array<std::string_view, 2> classes;
};

constexpr std::array<ArchitectureName, 4> kArchitectures{
    {{Architecture::llama, "llama", {"LlamaForCausalLM", "LLaMAForCausalLM"}},
     {Architecture::mistral, "mistral", {"MistralForCausalLM", ""}},
     {Architecture::gpt_bigcode, "gpt_bigcode", {"GPTBigCodeForCausalLM", ""}},
     {Architecture::roberta, "roberta", {"RobertaForMaskedLM", ""}}}};

struct TorchDType {
  std::string_view name;
  std::optional<DType> dtype;
};

constexpr std::array<TorchDType, 16> kTorchDTypes{{{"float32", DType::f32},
                                                   {"float", DType::f32},
                                                   {"bfloat16", DType::bf16},
                                                   {"float16", DType::f16},
                                                   {"half", DType::f16},
                                                   {"float64", DType::f64},
                                                   {"double", DType::f64},
                                                   {"float8_e4m3fn", {}},
                                                   {"float8_e4m3fnuz", {}},
                                                   {"float8_e5m2", {}},
                                                   {"float8_e5m2fnuz", {}},
                                                   {"int8", {}},
                                                   {"uint8", DType::u8},
                                                   {"int16", {}},
                                                   {"int32", DType::i32},
                                                   {"int64", DType::i64}}};

Architecture read_architecture(const JsonObject& config) {
  std::optional<Architecture> architecture;
  if (config.has("model_type")) {
    const std::string name = config.text("model_type");
    for (const ArchitectureName& each : kArchitectures) {
      if (each.model_type == name) architecture = each.architecture;
    }
    if (!architecture) config.fail("model_type", "one of llama, mistral, gpt_bigcode, roberta");
  }
  if (config.has("architectures")) {
    constexpr std::string_view kExpected =
        "a list of one of LlamaForCausalLM, MistralForCausalLM, GPTBigCodeForCausalLM, "
        "RobertaForMaskedLM";
    const nlohmann::json& list = *config.find("architectures");
    if (!list.is_array()) config.fail("architectures", kExpected);
    for (const nlohmann::json& item : list) {
      std::optional<Architecture> named;
      for (const ArchitectureName& each : kArchitectures) {
        if (!item.is_string() || item.get_ref<const std::string&>().empty()) continue;
        const std::string_view name = item.get_ref<const std::string&>();
        if (std::count(each.classes.begin(), each.classes.end(), name) > 0) {
          named = each.architecture;
        }
      }
      if (!named) {
        config.refuse("architectures",
                      fmt::format("expected {}, found {}", kExpected, describe(item)));
      }
      if (architecture && *architecture != *named) {
        config.refuse("architectures", fmt::format("expected an architecture of model_type {}, "
                                                   "found {}",
                                                   name_of(*architecture), describe(item)));
      }
      architecture = named;
    }
  }
  if (!architecture) config.fail("model_type", "one of llama, mistral, gpt_bigcode, roberta");
  return *architecture;
}

bool boolean_or(const JsonObject& config, std::string_view name, bool absent) {
  return config.has(name) ? config.boolean(name) : absent;
}

std::int64_t integer_or(const JsonObject& config, std::string_view name, std::int64_t minimum,
                        std::int64_t maximum, std::int64_t absent) {
  return config.has(name) ? config.integer(name, minimum, maximum) : absent;
}

double positive_or(const JsonObject& config, std::string_view name, double absent) {
  return config.has(name) ? config.positive_number(name) : absent;
}

/// A switch that changes the computation in a way the engine does not offer.
void require_off(const JsonObject& config, std::string_view name) {
  if (boolean_or(config, name, false)) config.fail(name, "false (the only form supported)");
}

void read_dtype(const JsonObject& config, CommonConfig& common) {
  for (const std::string_view field : {"torch_dtype", "dtype"}) {
    if (!config.has(field)) continue;
    std::string name = config.text(field);
    if (name.starts_with("torch.")) name.erase(0, 6);
    const auto* known = std::find_if(kTorchDTypes.begin(), kTorchDTypes.end(),
                                     [&](const TorchDType& each) { return each.name == name; });
    if (known == kTorchDTypes.end()) config.fail(field, "a dtype such as float32 or bfloat16");
    if (!common.dtype_name.empty() && common.dtype_name != name) {
      config.fail(field, fmt::format("the same as torch_dtype ({})", common.dtype_name));
    }
    common.dtype_name = name;
    common.dtype = known->dtype;
  }
}

void read_token_ids(const JsonObject& config, CommonConfig& common) {
  const std::int64_t last = common.vocab_size - 1;
  if (config.has("bos_token_id")) common.bos_token_id = config.integer("bos_token_id", 0, last);
  if (!config.has("eos_token_id")) return;
  const nlohmann::json& value = *config.find("eos_token_id");
  if (!value.is_array()) {
    common.eos_token_ids = {config.integer("eos_token_id", 0, last)};
    return;
  }
  for (const nlohmann::json& item : value) {
    // Unsigned comparison refuses what does not fit std::int64_t, too.
    if (!item.is_number_integer() ||
        (item.is_number_unsigned()
             ? item.get<std::uint64_t>() > static_cast<std::uint64_t>(last)
             : item.get<std::int64_t>() < 0 || item.get<std::int64_t>() > last)) {
      config.refuse("eos_token_id",
                    fmt::format("expected token ids from 0 to {}, found {}", last, describe(item)));
    }
    common.eos_token_ids.push_back(item.get<std::int64_t>());
  }
}

/// Width of a head where the file does not give it.
std::int64_t divide_heads(const JsonObject& config, std::string_view heads_field,
                          std::string_view hidden_field, const CommonConfig& common) {
  const std::int64_t width = common.hidden_size / common.attention_heads;
  if (common.hidden_size % common.attention_heads != 0 || width > kMaximumHeadDim) {
    config.fail(heads_field, fmt::format("a divisor of {} ({}) that gives heads of at most {}",
                                         hidden_field, common.hidden_size, kMaximumHeadDim));
  }
  return width;
}

LlamaConfig read_llama(const JsonObject& config, Architecture architecture) {
  const bool mistral = architecture == Architecture::mistral;
  LlamaConfig result;
  result.hidden_size = config.integer("hidden_size", 1, kMaximumHiddenSize);
  result.intermediate_size = config.integer("intermediate_size", 1, kMaximumIntermediateSize);
  result.layers = config.integer("num_hidden_layers", 1, kMaximumLayers);
  result.attention_heads = config.integer("num_attention_heads", 1, kMaximumHeads);
  result.vocab_size = config.integer("vocab_size", 1, kMaximumVocabSize);

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
  require_off(config, "attention_bias");
  require_off(config, "mlp_bias");
  result.tie_word_embeddings = boolean_or(config, "tie_word_embeddings", false);
  if (mistral) {
    // An absent window means the first Mistral's; null means none.
    if (config.find("sliding_window") == nullptr) {
      result.sliding_window = 4096;
    } else if (config.has("sliding_window")) {
      result.sliding_window = config.integer("sliding_window", 1, kMaximumPositions);
    }
  }
  read_dtype(config, result);
  read_token_ids(config, result);
  return result;
}

GeluKind read_gelu(const JsonObject& config, std::string_view field, GeluKind absent) {
  if (!config.has(field)) return absent;
  const std::string name = config.text(field);
  if (name == "gelu") return GeluKind::erf;
  if (name == "gelu_pytorch_tanh" || name == "gelu_new") return GeluKind::tanh;
  config.fail(field, "one of gelu, gelu_pytorch_tanh, gelu_new");
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
  read_dtype(config, result);
  read_token_ids(config, result);
  return result;
}

RobertaConfig read_roberta(const JsonObject& config) {
  RobertaConfig result;
  result.hidden_size = config.integer("hidden_size", 1, kMaximumHiddenSize);
  result.intermediate_size = config.integer("intermediate_size", 1, kMaximumIntermediateSize);
  result.layers = config.integer("num_hidden_layers", 1, kMaximumLayers);
  result.attention_heads = config.integer("num_attention_heads", 1, kMaximumHeads);
  result.head_dim = divide_heads(config, "num_attention_heads", "hidden_size", result);
  result.vocab_size = config.integer("vocab_size", 1, kMaximumVocabSize);
  result.type_vocab_size = integer_or(config, "type_vocab_size", 1, kMaximumVocabSize, 2);
  result.pad_token_id = integer_or(config, "pad_token_id", 0, result.vocab_size - 1, 1);
  result.max_position_embeddings = config.integer("max_position_embeddings", 1, kMaximumPositions);
  if (result.max_position_embeddings <= result.pad_token_id + 1) {
    config.fail("max_position_embeddings",
                fmt::format("more than {}, as positions start at pad_token_id + 1",
                            result.pad_token_id + 1));
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
  read_dtype(config, result);
  read_token_ids(config, result);
  return result;
}

}  // namespace

std::string_view name_of(Architecture architecture) {
  for (const ArchitectureName& each : kArchitectures) {
    if (each.architecture == architecture) return each.model_type;
  }
  return "unknown";
}

const CommonConfig& ModelConfig::common() const {
  return std::visit([](const auto& each) -> const CommonConfig& { return each; }, parameters);
}

const LlamaConfig& ModelConfig::llama() const {
  const auto* config = std::get_if<LlamaConfig>(&parameters);
  if (config == nullptr) {
    throw UnsupportedError(fmt::format(
        "expected a model of architecture llama or mistral, found {}", name_of(architecture)));
  }
  return *config;
}

ModelConfig parse_model_config(std::string_view text, const std::string& source) {
  const nlohmann::json document = parse_json(text, source);
  const JsonObject config(document, source);
  const Architecture architecture = read_architecture(config);
  switch (architecture) {
    case Architecture::gpt_bigcode:
      return {architecture, read_gpt_bigcode(config)};
    case Architecture::roberta:
      return {architecture, read_roberta(config)};
    default:
      return {architecture, read_llama(config, architecture)};
  }
}

ModelConfig read_model_config(const std::filesystem::path& path) {
  return parse_model_config(read_text_file(path, JsonLimits{}.bytes),
                            printable(path.native(), 4096));
}

}  // namespace portolan
