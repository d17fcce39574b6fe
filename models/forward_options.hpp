// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "attention/problem.hpp"
#include "core/random.hpp"
#include "core/tape.hpp"

namespace portolan {

class KeyValueCache;

/// Called with "embed", "layer.<i>" and, where the last block is followed by a norm, "final", and
/// the residual stream (after that norm for the last) [B, residual tokens, hidden] of this rank.
using HiddenStateObserver = std::function<void(const std::string& name, const Tensor& state)>;

/// What a training forward keeps for its backward. `selective` computes norms and activations again
/// and, under sequence parallelism, gathers again; `full` keeps only what enters each block and
/// computes the block again.
enum class Recomputation { none, selective, full };
[[nodiscard]] std::string_view name_of(Recomputation recomputation);
/// Throws UsageError that lists the names.
[[nodiscard]] Recomputation recomputation_from_name(std::string_view name);

/// How a forward pass is run.
struct ForwardOptions {
  Tape* tape = nullptr;  ///< null: inference
  Recomputation recomputation = Recomputation::none;
  /// Of attention weights; the key changes from step to step.
  float attention_dropout = 0.0F;
  RandomKey dropout_key = {};
  HiddenStateObserver observer = {};
  /// Of each sequence the tokens [begin, end) that are no padding; empty: all. Positions count from
  /// the first of them. What is computed for padding means nothing.
  std::vector<KeyRange> real_tokens = {};
  /// Tokens seen before, which those of this pass follow and are added to: ranges of real tokens
  /// then count from the first of all. Inference with causal models only.
  KeyValueCache* cache = nullptr;
  /// Logits of each sequence's last token only.
  bool last_only = false;
  /// Of each token [batch, length], for models that distinguish types; empty: all of type 0.
  std::vector<std::int32_t> token_types = {};
};

}  // namespace portolan
