// SPDX-License-Identifier: Apache-2.0
#include "models/fused_weights.hpp"

#include <array>

#include "core/error.hpp"

namespace portolan {
namespace {

enum class RowOrder {
  stacked,  ///< all rows of the first target, then all of the second, ...
  grouped,  ///< for each key/value head: the query heads that read it, the key, the value
};

struct FusedWeight {
  std::string_view source;
  std::array<std::string_view, 3> targets;  ///< the last may be empty
  RowOrder order;
};

constexpr std::string_view kQuery = "self_attn.q_proj";
constexpr std::string_view kKey = "self_attn.k_proj";
constexpr std::string_view kValue = "self_attn.v_proj";
constexpr std::string_view kGate = "mlp.gate_proj";
constexpr std::string_view kUp = "mlp.up_proj";

/// Names within a block. Sources: Phi-3 and MPT stack, GPT-NeoX and Falcon group by head.
constexpr std::array<FusedWeight, 6> kFusedWeights{
    {{"self_attn.qkv_proj", {kQuery, kKey, kValue}, RowOrder::stacked},
     {"self_attn.Wqkv", {kQuery, kKey, kValue}, RowOrder::stacked},
     {"attn.Wqkv", {kQuery, kKey, kValue}, RowOrder::stacked},
     {"self_attn.query_key_value", {kQuery, kKey, kValue}, RowOrder::grouped},
     {"attention.query_key_value", {kQuery, kKey, kValue}, RowOrder::grouped},
     {"mlp.gate_up_proj", {kGate, kUp, ""}, RowOrder::stacked}}};

std::int64_t rows_of(std::string_view target, const LlamaConfig& config) {
  if (target.empty()) return 0;
  if (target == kQuery) return config.attention_heads * config.head_dim;
  if (target == kKey || target == kValue) return config.kv_heads * config.head_dim;
  return config.intermediate_size;
}

/// The pieces of target number `wanted`.
StoredParameter take(const FusedWeight& fused, std::size_t wanted, bool is_bias,
                     const LlamaConfig& config, const WeightFiles::Location& location) {
  const std::int64_t groups = fused.order == RowOrder::grouped ? config.kv_heads : 1;
  std::int64_t group_rows = 0;  // of all targets
  std::int64_t first = 0;       // of the wanted target within its group
  for (std::size_t i = 0; i < fused.targets.size(); ++i) {
    if (i == wanted) first = group_rows;
    group_rows += rows_of(fused.targets[i], config) / groups;
  }
  const TensorEntry& tensor = *location.tensor;
  const std::int64_t columns = is_bias ? 1 : config.hidden_size;
  const auto shape_of = [&](std::int64_t all_rows) {
    return is_bias ? std::vector<std::int64_t>{all_rows}
                   : std::vector<std::int64_t>{all_rows, columns};
  };
  const std::vector<std::int64_t> expected = shape_of(groups * group_rows);
  if (tensor.shape != expected) {
    throw InputError(fmt::format(
        "{}: tensor '{}': expected shape {}, as config.json has it, found "
        "{}",
        location.file->name(), tensor.name, shape_text(expected), shape_text(tensor.shape)));
  }
  const std::int64_t rows = rows_of(fused.targets[wanted], config) / groups;
  StoredParameter parameter;
  parameter.description = tensor;
  parameter.description.shape = shape_of(groups * rows);
  for (std::int64_t group = 0; group < groups; ++group) {
    parameter.pieces.push_back({location.file, &tensor, group * rows, (group + 1) * rows, 0,
                                columns, group * group_rows + first, 0});
  }
  return parameter;
}

}  // namespace

std::optional<StoredParameter> find_in_fused(const WeightFiles& files, const LlamaConfig& config,
                                             const std::string& parameter) {
  for (const FusedWeight& fused : kFusedWeights) {
    for (std::size_t i = 0; i < fused.targets.size(); ++i) {
      const std::string_view target = fused.targets[i];
      const std::size_t at = parameter.find(target);
      if (target.empty() || at == std::string::npos) continue;
      std::string source = parameter;
      source.replace(at, target.size(), fused.source);
      const WeightFiles::Location location = files.find(source);
      if (location.tensor != nullptr) {
        return take(fused, i, parameter.ends_with(".bias"), config, location);
      }
    }
  }
  return std::nullopt;
}

}  // namespace portolan
