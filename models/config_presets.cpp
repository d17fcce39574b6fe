// SPDX-License-Identifier: Apache-2.0
#include <array>

#include "core/error.hpp"
#include "models/config.hpp"

namespace portolan {
namespace {

struct Preset {
  std::string_view name;
  std::string_view short_name;
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
constexpr std::array<Preset, 6> kPresets{
    {{"llama-7b", "7b", 4096, 11008, 32, 32, 32, 32000, 4096, 10000.0, 1, 2},
     {"llama-13b", "13b", 5120, 13824, 40, 40, 40, 32000, 4096, 10000.0, 1, 2},
     {"llama-70b", "70b", 8192, 28672, 80, 64, 8, 32000, 4096, 10000.0, 1, 2},
     {"llama-3-8b", "8b", 4096, 14336, 32, 32, 8, 128256, 8192, 500000.0, 128000, 128001},
     // Of a size that trains on two cores.
     {"llama-34m", "34m", 512, 1376, 8, 8, 8, 8192, 2048, 10000.0, 1, 2},
     {"tiny", "tiny", 64, 176, 2, 4, 2, 256, 2048, 10000.0, 1, 2}}};

}  // namespace

LlamaConfig preset_config(std::string_view name) {
  for (const Preset& preset : kPresets) {
    if (name != preset.name && name != preset.short_name) continue;
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
    return config;
  }
  throw UsageError(fmt::format("unknown preset '{}': expected one of {}", name,
                               fmt::join(preset_names(), ", ")));
}

std::vector<std::string_view> preset_names() {
  std::vector<std::string_view> names;
  for (const Preset& preset : kPresets) names.push_back(preset.name);
  return names;
}

LlamaConfig LlamaConfig::with_layers(std::int64_t count) const {
  require(count >= 1 && count <= kMaximumLayers, "expected 1 to {} layers, found {}",
          kMaximumLayers, count);
  LlamaConfig config = *this;
  config.layers = count;
  return config;
}

}  // namespace portolan
