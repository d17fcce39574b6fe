// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "models/config.hpp"

namespace portolan {

/// A model by the names of its parameters: what loading, plans and formulas need to know of an
/// architecture. Within a layer, "NAME" stands for "LAYERS<index>.NAME".
struct ModelOutline {
  /// In the order of the forward pass. A tied weight appears once, as the embedding.
  std::vector<ParameterShape> parameters;
  /// What comes before the index of a layer: "model.layers.".
  std::string layers;
  std::string embedding;
  /// The matrix of the logits; the embedding if tied.
  std::string head;
  /// The bias of the logits; may be empty.
  std::string head_bias = {};

  // Within a layer
  /// Output features of the queries, the keys and the values, which are dealt as the keys. Without
  /// a key, `query` has each head's query, key and value side by side.
  std::string query;
  std::string key;
  std::string value = {};
  std::string attention_out;
  /// Two: the second gates.
  std::vector<std::string> mlp_in;
  std::string mlp_out;

  /// Matrices [out, in] between the last block and the head, whole on every rank.
  std::vector<std::string> head_products = {};
  /// Positions see what comes before them only, and predict the next token; else all positions see
  /// each other, and predict their own.
  bool causal = true;
  /// Types of token that it distinguishes; 0: it knows of none.
  std::int64_t token_types = 0;
  /// Tokens of the longest sequence, where a table of positions ends it.
  std::optional<std::int64_t> longest_sequence = {};

  [[nodiscard]] std::string in_layer(std::int64_t index, std::string_view name) const;
};

/// Of a registered architecture.
[[nodiscard]] ModelOutline outline_of(const ModelConfig& config);

/// Shapes of a linear layer's weight [out, in] and bias, or, with one extent, of a LayerNorm.
void add_with_bias(std::vector<ParameterShape>& shapes, const std::string& name,
                   const std::vector<std::int64_t>& shape);

}  // namespace portolan
