// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "models/attention_block.hpp"
#include "models/forward_options.hpp"
#include "models/mlp.hpp"
#include "models/model_plan.hpp"
#include "models/weight_source.hpp"

namespace portolan {

/// What a model is made from.
struct ModelSetup {
  ModelPlan plan;
  const ParallelContext& context;  ///< must outlive the model
  WeightSource& weights;
  DType dtype = DType::f32;
  Device device;
  std::int64_t maximum_length = 0;  ///< of a sequence
  ParameterUse use = ParameterUse::inference;
  /// Of the matrices of products, a tied head left out. For inference only.
  Quantization quantization = Quantization::none;
};

/// A transformer of any architecture: embedding, blocks, head. One source for every device and
/// every parallel mode: this rank holds the shards of the plan, and the context's groups insert the
/// collectives. An architecture's class fills the layers and says how tokens become the residual
/// stream and that becomes logits.
class Model {
 public:
  virtual ~Model() = default;
  Model(const Model&) = delete;
  Model& operator=(const Model&) = delete;

  [[nodiscard]] const ModelPlan& plan() const noexcept { return plan_; }
  [[nodiscard]] const ParallelContext& context() const noexcept { return context_; }
  [[nodiscard]] DType dtype() const noexcept { return dtype_; }
  [[nodiscard]] Device device() const noexcept { return device_; }
  /// Positions predict the next token, else their own.
  [[nodiscard]] bool is_causal() const { return plan_.outline().causal; }
  /// Whether a norm follows the last block.
  [[nodiscard]] bool has_final_norm() const noexcept { return norm_place_ == NormPlace::before; }
  /// Tokens of the longest sequence.
  [[nodiscard]] std::int64_t maximum_length() const noexcept { return maximum_length_; }
  /// Bytes of the parameters as they are held here, padding included.
  [[nodiscard]] std::int64_t weight_bytes() const;
  /// Whether the ranks of the tensor-parallel group each have part of the vocabulary's logits.
  [[nodiscard]] bool logits_are_sharded() const;
  /// Each once, in the order of the forward pass; a tied table is one.
  [[nodiscard]] const std::vector<ParameterPointer>& parameters() const noexcept {
    return parameters_;
  }
  /// The matrices of a forward's products in their order, for measuring what these cost by
  /// themselves.
  [[nodiscard]] const std::vector<const Weight*>& product_weights() const noexcept {
    return product_weights_;
  }

  /// One forward pass over `ids` [batch, length] (row-major, the same on every rank). Returns this
  /// rank's logits [batch, block tokens, vocabulary rows]: its part of the sequence under ring
  /// attention, its part of the vocabulary under tensor parallelism. Throws UsageError for ids
  /// outside the vocabulary, sequences too long and options that do not fit them.
  [[nodiscard]] Tensor forward(std::span<const std::int32_t> ids, std::int64_t batch,
                               const HiddenStateObserver& observer = {}) const;
  [[nodiscard]] Variable forward(std::span<const std::int32_t> ids, std::int64_t batch,
                                 const ForwardOptions& options) const;

  /// Logits of the token that follows each sequence, [batch, vocab] f32 on the model's device,
  /// whole on every rank, which may change its own. As a forward pass with last_only. Collective.
  [[nodiscard]] Tensor next_logits(std::span<const std::int32_t> ids, std::int64_t batch,
                                   const ForwardOptions& options) const;
  /// Throws UsageError for tokens and options that this model cannot run.
  void check(std::span<const std::int32_t> ids, std::int64_t batch,
             const ForwardOptions& options) const;
  /// Positions of the tokens of all sequences, as a forward pass with these arguments counts them.
  [[nodiscard]] std::vector<std::int32_t> all_positions(std::span<const std::int32_t> ids,
                                                        std::int64_t batch,
                                                        const ForwardOptions& options) const;
  /// One more token of each sequence of a cache that reads its rows from device memory, on a rank
  /// that works alone: enqueues operations that depend on nothing but the tensors given, so that
  /// they can be recorded. ids i32 [batch, 1]; positions i32 [batch]; logits [batch, vocab] f32 get
  /// the result.
  void enqueue_next(const Tensor& ids, const Tensor& positions, KeyValueCache& cache,
                    const Tensor& logits) const;
  /// An empty cache for this rank's part of `batch` sequences of up to `tokens` tokens.
  [[nodiscard]] KeyValueCache make_cache(std::int64_t batch, std::int64_t tokens) const;

  /// Of values [batch, length], the same on every rank, those of the tokens whose logits this rank
  /// computes, in their order.
  [[nodiscard]] std::vector<std::int32_t> local_values(std::span<const std::int32_t> values,
                                                       std::int64_t batch) const;

  /// Logit rows `rows` (b * length + t) of a forward's result as [rows, vocab] f32 in host memory,
  /// whole on every rank. Collective.
  [[nodiscard]] Tensor gather_logits(const Tensor& logits, std::span<const std::int64_t> rows,
                                     std::int64_t length) const;

 protected:
  /// Where the norms of a block are.
  enum class NormPlace {
    before,  ///< each part of a block reads a norm of the residual stream
    behind,  ///< the residual stream is normed after each sum
  };
  struct Layer {
    functional::Norm attention_norm;
    AttentionBlock attention;
    functional::Norm mlp_norm;
    std::unique_ptr<Mlp> mlp;
  };
  /// What goes from block to block: the residual stream, and its norm, which the next part reads.
  /// With norms behind they are the same.
  struct Stream {
    Variable normed;
    Variable residual;
  };

  Model(const ModelSetup& setup, NormPlace norm_place);

  /// Ends construction: takes what `loader` has loaded.
  void adopt(const ShardLoader& loader);

  /// Positions of the tokens of one sequence. Default: 0 for the first real token, and on.
  [[nodiscard]] virtual std::vector<std::int32_t> positions(std::span<const std::int32_t> ids,
                                                            const KeyRange& real_tokens) const;
  /// Tokens to residual stream [B, residual tokens, hidden]. Default: the embedding alone.
  [[nodiscard]] virtual Variable embed(const ForwardPass& pass) const;
  /// One block. `stream` may be overwritten.
  [[nodiscard]] virtual Stream block(std::size_t index, const Stream& stream,
                                     const ForwardPass& pass) const;
  /// The last block's normed stream to logits. Default: the head.
  [[nodiscard]] virtual Variable logits(const Variable& normed, const ForwardPass& pass) const;

  VocabularyParallelEmbedding embedding_;
  std::vector<Layer> layers_;
  functional::Norm final_norm_;  ///< only with norms before
  ColumnParallelLinear head_;

 private:
  [[nodiscard]] ForwardPass start(std::span<const std::int32_t> ids, std::int64_t batch,
                                  const ForwardOptions& options) const;
  [[nodiscard]] SequenceSharding announce_tokens(std::int64_t length, std::int64_t batch,
                                                 const ForwardOptions& options) const;
  /// Whether this rank's logits are added where those of all ranks are brought together: of ranks
  /// with the same ones, one's are.
  [[nodiscard]] bool adds_logits() const;
  [[nodiscard]] Stream enter_blocks(const ForwardPass& pass) const;
  [[nodiscard]] Stream run_blocks(Stream stream, const ForwardPass& pass) const;

  ModelPlan plan_;
  const ParallelContext& context_;
  DType dtype_;
  Device device_;
  std::int64_t maximum_length_;
  NormPlace norm_place_;
  std::vector<ParameterPointer> parameters_;
  std::vector<const Weight*> product_weights_;
};

}  // namespace portolan
