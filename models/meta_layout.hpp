// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>

#include "models/config.hpp"

/// How Meta's checkpoints name LLaMA's parameters and cut them into model-parallel shards.
namespace portolan {

enum class MetaSharding {
  replicated,  ///< whole in every shard
  rows,        ///< output features dealt
  columns,     ///< input features dealt
  embedding,   ///< LLaMA 1 and 2: columns; LLaMA 3: rows
};

struct MetaTensor {
  std::string name;
  MetaSharding sharding = MetaSharding::replicated;
  /// Rows of each head alternate between the two halves of what rotary embedding turns.
  bool interleaved = false;
};

/// The tensor of Meta's format for a parameter by its Hugging Face name, one of those that
/// parameter_shapes(const LlamaConfig&) lists. Throws UsageError for other names.
[[nodiscard]] MetaTensor meta_tensor(std::string_view parameter);

/// Whether the model's embedding is dealt along the vocabulary when it is written: LLaMA 3, which
/// is known by the base of its rotary frequencies. Reading goes by the shapes.
[[nodiscard]] bool deals_vocabulary(const LlamaConfig& config);

/// The files' names: consolidated.00.pth, ...
[[nodiscard]] std::string meta_shard_name(int shard);

constexpr const char* kMetaConfigName = "params.json";

}  // namespace portolan
