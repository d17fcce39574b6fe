// SPDX-License-Identifier: Apache-2.0
#include "models/config_fields.hpp"

#include <algorithm>
#include <array>
#include <utility>

#include "core/error.hpp"

namespace portolan {
namespace {

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

void read_quantization(const JsonObject& config, CommonConfig& common) {
  if (!config.has("quantization_config")) return;
  const JsonObject quantization = config.object("quantization_config");
  common.quantization_method = quantization.has("quant_method")
                                   ? quantization.text("quant_method")
                                   : std::string("a method without a name");
}

}  // namespace

void read_end_tokens(const JsonObject& config, CommonConfig& common) {
  if (!config.has("eos_token_id")) return;
  const std::int64_t last = common.vocab_size - 1;
  common.eos_token_ids.clear();
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

void require_off(const JsonObject& config, std::string_view name) {
  if (boolean_or(config, name, false)) config.fail(name, "false (the only form supported)");
}

GeluKind read_gelu(const JsonObject& config, std::string_view field, GeluKind absent) {
  if (!config.has(field)) return absent;
  // Several names for each of two formulas; gelu_10 and quick_gelu are others.
  constexpr std::array<std::pair<std::string_view, GeluKind>, 7> kNames{
      {{"gelu", GeluKind::erf},
       {"gelu_python", GeluKind::erf},
       {"gelu_pytorch_tanh", GeluKind::tanh},
       {"gelu_python_tanh", GeluKind::tanh},
       {"gelu_new", GeluKind::tanh},
       {"gelu_fast", GeluKind::tanh},
       {"gelu_accurate", GeluKind::tanh}}};
  const std::string name = config.text(field);
  for (const auto& [known, kind] : kNames) {
    if (known == name) return kind;
  }
  config.fail(field, "gelu, gelu_pytorch_tanh or another name of one of these two");
}

std::string_view gelu_name(GeluKind kind) {
  return kind == GeluKind::erf ? "gelu" : "gelu_pytorch_tanh";
}

void read_sizes(const JsonObject& config, CommonConfig& common) {
  common.hidden_size = config.integer("hidden_size", 1, kMaximumHiddenSize);
  common.intermediate_size = config.integer("intermediate_size", 1, kMaximumIntermediateSize);
  common.layers = config.integer("num_hidden_layers", 1, kMaximumLayers);
  common.attention_heads = config.integer("num_attention_heads", 1, kMaximumHeads);
  common.vocab_size = config.integer("vocab_size", 1, kMaximumVocabSize);
}

std::int64_t divide_heads(const JsonObject& config, std::string_view heads_field,
                          std::string_view hidden_field, const CommonConfig& common) {
  const std::int64_t width = common.hidden_size / common.attention_heads;
  if (common.hidden_size % common.attention_heads != 0 || width > kMaximumHeadDim) {
    config.fail(heads_field, fmt::format("a divisor of {} ({}) that gives heads of at most {}",
                                         hidden_field, common.hidden_size, kMaximumHeadDim));
  }
  return width;
}

void read_token_ids(const JsonObject& config, CommonConfig& common) {
  if (config.has("bos_token_id")) {
    common.bos_token_id = config.integer("bos_token_id", 0, common.vocab_size - 1);
  }
  read_end_tokens(config, common);
}

void read_dtype_and_tokens(const JsonObject& config, CommonConfig& common) {
  read_dtype(config, common);
  read_quantization(config, common);
  read_token_ids(config, common);
}

void write_dtype_and_tokens(const CommonConfig& common, nlohmann::ordered_json& out) {
  if (!common.dtype_name.empty()) out["torch_dtype"] = common.dtype_name;
  if (common.bos_token_id) out["bos_token_id"] = *common.bos_token_id;
  if (common.eos_token_ids.size() == 1) {
    out["eos_token_id"] = common.eos_token_ids.front();
  } else if (!common.eos_token_ids.empty()) {
    out["eos_token_id"] = common.eos_token_ids;
  }
}

}  // namespace portolan
