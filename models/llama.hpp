// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "models/llama_plan.hpp"
#include "models/parallel_context.hpp"
#include "models/rotary.hpp"
#include "models/weight_source.hpp"

namespace portolan {

/// Called with "embed", "layer.<i>" and "final" and the residual stream (after the final norm for
/// the last) [B, residual tokens, hidden] of this rank.
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
};

/// The LLaMA family (Touvron et al. 2023, arXiv:2302.13971; also Mistral's sliding window):
/// embedding, blocks of RMSNorm, rotary grouped-query attention, RMSNorm, SwiGLU, a final RMSNorm
/// and a head. One source for every device and every parallel mode: this rank holds the shards of
/// the plan, and the context's groups insert the collectives.
class Llama {
 public:
  /// Loads this rank's shards. `context` must outlive the model; sequences up to `maximum_length`.
  Llama(const LlamaPlan& plan, const ParallelContext& context, WeightSource& source, DType dtype,
        Device device, std::int64_t maximum_length, ParameterUse use = ParameterUse::inference);

  [[nodiscard]] const LlamaPlan& plan() const noexcept { return plan_; }
  [[nodiscard]] const ParallelContext& context() const noexcept { return context_; }
  [[nodiscard]] DType dtype() const noexcept { return dtype_; }
  [[nodiscard]] Device device() const noexcept { return device_; }
  /// Bytes of the parameters as they are held here, padding included.
  [[nodiscard]] std::int64_t weight_bytes() const;
  /// Whether the ranks of the tensor-parallel group each have part of the vocabulary's logits.
  [[nodiscard]] bool logits_are_sharded() const;
  /// Each once, in the order of the forward pass; a tied table is one.
  [[nodiscard]] std::vector<ParameterPointer> parameters() const;
  /// The matrices of a layer's products, for measuring what these cost by themselves.
  [[nodiscard]] std::vector<const Weight*> product_weights() const;

  /// One forward pass over `ids` [batch, length] (row-major, the same on every rank). Returns this
  /// rank's logits [batch, block tokens, vocabulary rows]: its part of the sequence under ring
  /// attention, its part of the vocabulary under tensor parallelism.
  [[nodiscard]] Tensor forward(std::span<const std::int32_t> ids, std::int64_t batch,
                               const HiddenStateObserver& observer = {}) const;
  [[nodiscard]] Variable forward(std::span<const std::int32_t> ids, std::int64_t batch,
                                 const ForwardOptions& options) const;

  /// Of values [batch, length], the same on every rank, those of the tokens whose logits this rank
  /// computes, in their order.
  [[nodiscard]] std::vector<std::int32_t> local_values(std::span<const std::int32_t> values,
                                                       std::int64_t batch) const;

  /// Logit rows `rows` (b * length + t) of a forward's result as [rows, vocab] f32 in host memory,
  /// whole on every rank. Collective.
  [[nodiscard]] Tensor gather_logits(const Tensor& logits, std::span<const std::int64_t> rows,
                                     std::int64_t length) const;

 private:
  struct Layer {
    ParameterPointer attention_norm;  // [hidden]
    ColumnParallelLinear qkv;
    RowParallelLinear attention_out;
    ParameterPointer mlp_norm;  // [hidden]
    ColumnParallelLinear gate_up;
    RowParallelLinear mlp_out;
  };

  [[nodiscard]] Tensor local_positions(std::int64_t batch, const SequenceSharding& sharding) const;
  /// What all blocks of one forward pass share.
  struct Pass {
    SequenceSharding sharding;
    std::int64_t tokens = 0;  ///< of each sequence on this rank, inside blocks
    Tensor positions;
    ForwardOptions options;
    bool selective = false;
  };

  [[nodiscard]] functional::NormedSum block(std::size_t index, const Variable& normed,
                                            const Variable& residual, const Pass& pass) const;
  [[nodiscard]] Variable attention(std::size_t index, const Variable& normed,
                                   const Pass& pass) const;
  [[nodiscard]] Variable mlp(const Layer& layer, const Variable& normed, const Pass& pass) const;

  LlamaPlan plan_;
  const ParallelContext& context_;
  DType dtype_;
  Device device_;
  RotaryTables rotary_;
  VocabularyParallelEmbedding embedding_;
  std::vector<Layer> layers_;
  ParameterPointer final_norm_;
  ColumnParallelLinear head_;
};

}  // namespace portolan
