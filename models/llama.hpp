// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "models/llama_plan.hpp"
#include "models/parallel_context.hpp"
#include "models/rotary.hpp"
#include "models/weight_source.hpp"

namespace portolan {

/// Called with "embed", "layer.<i>" and "final" and the residual stream (after the final norm for
/// the last) [B, residual tokens, hidden] of this rank.
using HiddenStateObserver = std::function<void(const std::string& name, const Tensor& state)>;

/// The LLaMA family (Touvron et al. 2023, arXiv:2302.13971; also Mistral's sliding window):
/// embedding, blocks of RMSNorm, rotary grouped-query attention, RMSNorm, SwiGLU, a final RMSNorm
/// and a head. One source for every device and every parallel mode: this rank holds the shards of
/// the plan, and the context's groups insert the collectives.
class Llama {
 public:
  /// Loads this rank's shards. `context` must outlive the model; sequences up to `maximum_length`.
  Llama(const LlamaPlan& plan, const ParallelContext& context, WeightSource& source, DType dtype,
        Device device, std::int64_t maximum_length);

  [[nodiscard]] const LlamaPlan& plan() const noexcept { return plan_; }
  [[nodiscard]] const ParallelContext& context() const noexcept { return context_; }
  [[nodiscard]] DType dtype() const noexcept { return dtype_; }
  [[nodiscard]] Device device() const noexcept { return device_; }
  /// Bytes of the parameters as they are held here, padding included.
  [[nodiscard]] std::int64_t weight_bytes() const;
  /// The matrices of a layer's products, for measuring what these cost by themselves.
  [[nodiscard]] std::vector<const Weight*> product_weights() const;

  /// One forward pass over `ids` [batch, length] (row-major, the same on every rank). Returns this
  /// rank's logits [batch, block tokens, vocabulary rows]: its part of the sequence under ring
  /// attention, its part of the vocabulary under tensor parallelism.
  [[nodiscard]] Tensor forward(std::span<const std::int32_t> ids, std::int64_t batch,
                               const HiddenStateObserver& observer = {}) const;

  /// Logit rows `rows` (b * length + t) of a forward's result as [rows, vocab] f32 in host memory,
  /// whole on every rank. Collective.
  [[nodiscard]] Tensor gather_logits(const Tensor& logits, std::span<const std::int64_t> rows,
                                     std::int64_t length) const;

 private:
  struct Layer {
    Tensor attention_norm;  // [hidden]
    ColumnParallelLinear qkv;
    RowParallelLinear attention_out;
    Tensor mlp_norm;  // [hidden]
    ColumnParallelLinear gate_up;
    RowParallelLinear mlp_out;
  };

  [[nodiscard]] Tensor local_ids(std::span<const std::int32_t> ids, std::int64_t batch,
                                 const SequenceSharding& sharding) const;
  [[nodiscard]] Tensor local_positions(std::int64_t batch, const SequenceSharding& sharding) const;
  [[nodiscard]] Tensor attention(const Layer& layer, const Tensor& normed, const Tensor& positions,
                                 const SequenceSharding& sharding) const;
  [[nodiscard]] Tensor mlp(const Layer& layer, const Tensor& normed, std::int64_t tokens) const;

  LlamaPlan plan_;
  const ParallelContext& context_;
  DType dtype_;
  Device device_;
  RotaryTables rotary_;
  VocabularyParallelEmbedding embedding_;
  std::vector<Layer> layers_;
  Tensor final_norm_;
  ColumnParallelLinear head_;
};

}  // namespace portolan
