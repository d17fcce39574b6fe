// SPDX-License-Identifier: Apache-2.0
#include "models/meta_config.hpp"

#include <array>
#include <cmath>
#include <nlohmann/json.hpp>

#include "core/error.hpp"
#include "core/json_file.hpp"
#include "core/mapped_file.hpp"
#include "core/printable.hpp"

namespace portolan {
namespace {

/// Of models that are not plain LLaMA.
constexpr std::array<std::string_view, 9> kForeignFields{"moe",
                                                         "lora_args",
                                                         "quantization_args",
                                                         "vision_model",
                                                         "vision_args",
                                                         "vision_chunk_size",
                                                         "vision_embed_dim",
                                                         "yarn",
                                                         "llama_4_scaling"};

/// What use_scaled_rope stands for.
constexpr Llama3RopeScaling kScaledRope{};

/// Default of Meta's code.
constexpr std::int64_t kMultipleOf = 256;
constexpr double kLargestMultiplier = 1e3;

/// The width of the MLP before it is rounded up.
std::int64_t unrounded_intermediate(std::int64_t dim, double multiplier) {
  const auto two_thirds = static_cast<std::int64_t>(8.0 * static_cast<double>(dim) / 3.0);
  return static_cast<std::int64_t>(multiplier * static_cast<double>(two_thirds));
}

std::int64_t intermediate_of(std::int64_t dim, double multiplier, std::int64_t multiple_of) {
  return (unrounded_intermediate(dim, multiplier) + multiple_of - 1) / multiple_of * multiple_of;
}

void read_heads(const JsonObject& params, LlamaConfig& config) {
  config.attention_heads = params.integer("n_heads", 1, kMaximumHeads);
  config.kv_heads = params.has("n_kv_heads") ? params.integer("n_kv_heads", 1, kMaximumHeads)
                                             : config.attention_heads;
  if (config.attention_heads % config.kv_heads != 0) {
    params.fail("n_kv_heads", fmt::format("a divisor of n_heads ({})", config.attention_heads));
  }
  if (params.has("head_dim")) {
    config.head_dim = params.integer("head_dim", 1, kMaximumHeadDim);
  } else {
    config.head_dim = config.hidden_size / config.attention_heads;
    if (config.hidden_size % config.attention_heads != 0 || config.head_dim > kMaximumHeadDim) {
      params.fail("n_heads", fmt::format("a divisor of dim ({}) that gives heads of at most {}",
                                         config.hidden_size, kMaximumHeadDim));
    }
  }
  if (config.head_dim % 2 != 0) {
    params.fail(params.has("head_dim") ? "head_dim" : "n_heads",
                "an even width of heads, as rotary embedding turns pairs");
  }
}

void read_intermediate(const JsonObject& params, LlamaConfig& config) {
  if (params.has("hidden_dim")) {
    config.intermediate_size = params.integer("hidden_dim", 1, kMaximumIntermediateSize);
    return;
  }
  const std::int64_t multiple_of = params.has("multiple_of")
                                       ? params.integer("multiple_of", 1, kMaximumIntermediateSize)
                                       : kMultipleOf;
  const double multiplier = params.has("ffn_dim_multiplier")
                                ? params.number("ffn_dim_multiplier", 0.0, kLargestMultiplier)
                                : 1.0;
  config.intermediate_size = intermediate_of(config.hidden_size, multiplier, multiple_of);
  if (config.intermediate_size < 1 || config.intermediate_size > kMaximumIntermediateSize) {
    params.refuse(params.has("ffn_dim_multiplier") ? "ffn_dim_multiplier" : "multiple_of",
                  fmt::format("expected a width of the MLP from 1 to {}, found one of {}",
                              kMaximumIntermediateSize, config.intermediate_size));
  }
}

void read_rotary(const JsonObject& params, LlamaConfig& config) {
  if (params.has("rope_theta")) config.rope_theta = params.positive_number("rope_theta");
  if (!params.has("use_scaled_rope") || !params.boolean("use_scaled_rope")) return;
  Llama3RopeScaling scaling = kScaledRope;
  const auto read = [&params](std::string_view field, double& value) {
    if (params.has(field)) value = params.positive_number(field);
  };
  read("rope_scaling_factor", scaling.factor);
  read("rope_low_freq_factor", scaling.low_freq_factor);
  read("rope_high_freq_factor", scaling.high_freq_factor);
  if (scaling.high_freq_factor <= scaling.low_freq_factor) {
    params.fail("rope_high_freq_factor",
                fmt::format("more than the low one ({})", scaling.low_freq_factor));
  }
  if (params.has("rope_original_max_position_embeddings")) {
    scaling.original_max_position_embeddings =
        params.integer("rope_original_max_position_embeddings", 1, kMaximumPositions);
  }
  config.rope_scaling = scaling;
}

/// The longest sequence that the release was trained for.
std::int64_t positions_of(const JsonObject& params, const LlamaConfig& config) {
  if (params.has("max_seq_len")) return params.integer("max_seq_len", 1, kMaximumPositions);
  if (!std::holds_alternative<NoRopeScaling>(config.rope_scaling)) return 131072;  // LLaMA 3.1
  if (config.rope_theta >= 1e6) return 16384;                                      // Code Llama
  if (config.rope_theta >= 5e5) return 8192;                                       // LLaMA 3
  constexpr double kEpsilonOfLlama1 = 1e-6;
  return config.rms_norm_epsilon == kEpsilonOfLlama1 ? 2048 : 4096;
}

/// A multiplier that gives that width together with `multiple_of`, which divides it.
double multiplier_for(const LlamaConfig& config, std::int64_t multiple_of) {
  // In the middle of what is rounded up to the width, so that rounding the quotient does no harm.
  return (static_cast<double>(config.intermediate_size) -
          0.5 * static_cast<double>(multiple_of - 1) + (multiple_of == 1 ? 0.5 : 0.0)) /
         static_cast<double>(unrounded_intermediate(config.hidden_size, 1.0));
}

void describe_intermediate(const LlamaConfig& config, nlohmann::ordered_json& params) {
  std::int64_t multiple_of = kMultipleOf;
  while (config.intermediate_size % multiple_of != 0) multiple_of /= 2;
  const double multiplier = multiplier_for(config, multiple_of);
  if (multiplier > kLargestMultiplier) {
    params["hidden_dim"] = config.intermediate_size;
    return;
  }
  params["multiple_of"] = multiple_of;
  if (intermediate_of(config.hidden_size, 1.0, multiple_of) != config.intermediate_size) {
    params["ffn_dim_multiplier"] = multiplier;
  }
}

void describe_rotary(const LlamaConfig& config, nlohmann::ordered_json& params) {
  // LLaMA 1 and 2 do not know the field, and their code refuses fields that it does not know.
  constexpr double kThetaOfLlama2 = 10000.0;
  if (config.rope_theta != kThetaOfLlama2) params["rope_theta"] = config.rope_theta;
  if (std::holds_alternative<NoRopeScaling>(config.rope_scaling)) return;
  const auto* scaling = std::get_if<Llama3RopeScaling>(&config.rope_scaling);
  if (scaling == nullptr) {
    throw UnsupportedError(
        "Meta's format has no scaling of the rotary embedding but LLaMA 3's, found another");
  }
  params["use_scaled_rope"] = true;
  const auto write = [&params](const char* field, auto value, auto usual) {
    if (value != usual) params[field] = value;
  };
  write("rope_scaling_factor", scaling->factor, kScaledRope.factor);
  write("rope_low_freq_factor", scaling->low_freq_factor, kScaledRope.low_freq_factor);
  write("rope_high_freq_factor", scaling->high_freq_factor, kScaledRope.high_freq_factor);
  write("rope_original_max_position_embeddings", scaling->original_max_position_embeddings,
        kScaledRope.original_max_position_embeddings);
}

}  // namespace

LlamaConfig parse_meta_config(std::string_view text, const std::string& source) {
  const nlohmann::json document = parse_json(text, source);
  const JsonObject params(document, source);
  for (const std::string_view field : kForeignFields) {
    if (params.has(field)) params.fail(field, "no such field, as plain LLaMA models have none");
  }
  LlamaConfig config;
  config.hidden_size = params.integer("dim", 1, kMaximumHiddenSize);
  config.layers = params.integer("n_layers", 1, kMaximumLayers);
  read_heads(params, config);
  read_intermediate(params, config);
  if (params.has("vocab_size")) {
    constexpr std::int64_t kFromTokenizer = -1;
    const std::int64_t size = params.integer("vocab_size", kFromTokenizer, kMaximumVocabSize);
    if (size == 0) params.fail("vocab_size", "-1 or a number above 0");
    config.vocab_size = std::max<std::int64_t>(size, 0);
  }
  config.rms_norm_epsilon = params.has("norm_eps") ? params.positive_number("norm_eps") : 1e-5;
  read_rotary(params, config);
  if (params.has("sliding_window")) {
    config.sliding_window = params.integer("sliding_window", 1, kMaximumPositions);
  }
  config.max_position_embeddings = positions_of(params, config);
  return config;
}

LlamaConfig read_meta_config(const std::filesystem::path& path) {
  return parse_meta_config(read_text_file(path, JsonLimits{}.bytes), printable_path(path));
}

std::string meta_config_text(const LlamaConfig& config) {
  if (config.attention_bias || config.mlp_bias) {
    throw UnsupportedError("Meta's format has no biases, which this model has");
  }
  nlohmann::ordered_json params = {
      {"dim", config.hidden_size},         {"n_layers", config.layers},
      {"n_heads", config.attention_heads}, {"n_kv_heads", config.kv_heads},
      {"vocab_size", config.vocab_size},   {"norm_eps", config.rms_norm_epsilon}};
  const bool is_plain =
      !config.sliding_window && config.head_dim * config.attention_heads == config.hidden_size;
  if (is_plain) {
    describe_intermediate(config, params);
  } else {
    params["head_dim"] = config.head_dim;
    params["hidden_dim"] = config.intermediate_size;
    if (config.sliding_window) params["sliding_window"] = *config.sliding_window;
  }
  describe_rotary(config, params);
  return params.dump(2) + "\n";
}

}  // namespace portolan
