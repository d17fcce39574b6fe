// SPDX-License-Identifier: Apache-2.0
#include "models/meta_layout.hpp"

#include <array>

#include "core/error.hpp"
#include "core/printable.hpp"

namespace portolan {
namespace {

struct NamePair {
  std::string_view parameter;
  std::string_view tensor;
  MetaSharding sharding;
  bool interleaved = false;
};

constexpr std::array<NamePair, 3> kOuterNames{
    {{"model.embed_tokens.weight", "tok_embeddings.weight", MetaSharding::embedding},
     {"model.norm.weight", "norm.weight", MetaSharding::replicated},
     {"lm_head.weight", "output.weight", MetaSharding::rows}}};

/// Within "model.layers.N." and "layers.N.".
constexpr std::array<NamePair, 9> kBlockNames{
    {{"input_layernorm.weight", "attention_norm.weight", MetaSharding::replicated},
     {"self_attn.q_proj.weight", "attention.wq.weight", MetaSharding::rows, true},
     {"self_attn.k_proj.weight", "attention.wk.weight", MetaSharding::rows, true},
     {"self_attn.v_proj.weight", "attention.wv.weight", MetaSharding::rows},
     {"self_attn.o_proj.weight", "attention.wo.weight", MetaSharding::columns},
     {"post_attention_layernorm.weight", "ffn_norm.weight", MetaSharding::replicated},
     {"mlp.gate_proj.weight", "feed_forward.w1.weight", MetaSharding::rows},
     {"mlp.up_proj.weight", "feed_forward.w3.weight", MetaSharding::rows},
     {"mlp.down_proj.weight", "feed_forward.w2.weight", MetaSharding::columns}}};

}  // namespace

MetaTensor meta_tensor(std::string_view parameter) {
  constexpr std::string_view kModel = "model.";
  constexpr std::string_view kLayers = "model.layers.";
  std::string prefix;
  std::string_view rest = parameter;
  if (parameter.starts_with(kLayers)) {
    const std::size_t end = parameter.find('.', kLayers.size());
    prefix = parameter.substr(kModel.size(), end + 1 - kModel.size());
    rest = parameter.substr(end + 1);
  }
  const auto find = [&](const auto& names) -> const NamePair* {
    for (const NamePair& each : names) {
      if (each.parameter == rest) return &each;
    }
    return nullptr;
  };
  const NamePair* found = prefix.empty() ? find(kOuterNames) : find(kBlockNames);
  require(found != nullptr, "Meta's format has no tensor for parameter '{}'", printable(parameter));
  return {prefix + std::string(found->tensor), found->sharding, found->interleaved};
}

bool deals_vocabulary(const LlamaConfig& config) {
  constexpr double kThetaOfLlama3 = 500000.0;
  return config.rope_theta == kThetaOfLlama3;
}

std::string meta_shard_name(int shard) { return fmt::format("consolidated.{:02}.pth", shard); }

}  // namespace portolan
