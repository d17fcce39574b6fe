// SPDX-License-Identifier: Apache-2.0
#include "models/llama.hpp"

#include <array>
#include <cmath>

#include "core/error.hpp"
#include "core/ops.hpp"

namespace portolan {
namespace {

using functional::rows;

constexpr std::array kRecomputations{Recomputation::none, Recomputation::selective,
                                     Recomputation::full};

/// Copies host integers to a device tensor.
Tensor upload(const std::vector<std::int32_t>& values, const Shape& shape, Device device) {
  const Tensor tensor = Tensor::empty(shape, DType::i32, device);
  Backend& backend = backend_of(device);
  backend.copy_bytes(tensor.raw(), values.data(), tensor.bytes(), Queue::compute);
  backend.synchronize();
  return tensor;
}

}  // namespace

std::string_view name_of(Recomputation recomputation) {
  switch (recomputation) {
    case Recomputation::none:
      return "none";
    case Recomputation::selective:
      return "selective";
    case Recomputation::full:
      return "full";
  }
  return "";
}

Recomputation recomputation_from_name(std::string_view name) {
  for (const Recomputation recomputation : kRecomputations) {
    if (name_of(recomputation) == name) return recomputation;
  }
  throw UsageError(
      fmt::format("unknown recomputation '{}'; known are none, selective, full", name));
}

Llama::Llama(const LlamaPlan& plan, const ParallelContext& context, WeightSource& source,
             DType dtype, Device device, std::int64_t maximum_length, ParameterUse use)
    : plan_(plan),
      context_(context),
      dtype_(dtype),
      device_(device),
      rotary_(make_rotary_tables(plan.config(), maximum_length, device)),
      embedding_(nullptr, 0, context.tensor(), false),
      head_(nullptr) {
  const ProfilingRegion region(device, "Portolan::Llama::load");
  const TensorParallelGroup& group = context.tensor();
  const ShardLoader loader(plan_.parameters(), group.rank(), source, dtype, device, use);
  const std::string table = "model.embed_tokens.weight";
  embedding_ = VocabularyParallelEmbedding(loader.plain(table), loader.range(table).row_begin,
                                           group, plan_.embedding_is_sharded());
  layers_.reserve(static_cast<std::size_t>(plan_.config().layers));
  for (std::int64_t index = 0; index < plan_.config().layers; ++index) {
    const std::string prefix = fmt::format("model.layers.{}.", index);
    const std::string attention = prefix + "self_attn.";
    layers_.push_back({loader.plain(prefix + "input_layernorm.weight"),
                       ColumnParallelLinear(
                           loader.stacked({attention + "q_proj.weight", attention + "k_proj.weight",
                                           attention + "v_proj.weight"})),
                       RowParallelLinear(loader.stacked({attention + "o_proj.weight"}), group,
                                         plan_.attention_is_sharded()),
                       loader.plain(prefix + "post_attention_layernorm.weight"),
                       ColumnParallelLinear(loader.stacked(
                           {prefix + "mlp.gate_proj.weight", prefix + "mlp.up_proj.weight"})),
                       RowParallelLinear(loader.stacked({prefix + "mlp.down_proj.weight"}), group,
                                         plan_.mlp_is_sharded())});
  }
  final_norm_ = loader.plain("model.norm.weight");
  head_ = ColumnParallelLinear(
      plan_.config().tie_word_embeddings ? embedding_.table() : loader.stacked({"lm_head.weight"}));
  backend_of(device).synchronize();
}

std::vector<ParameterPointer> Llama::parameters() const {
  std::vector<ParameterPointer> parameters{embedding_.table()};
  for (const Layer& layer : layers_) {
    parameters.insert(parameters.end(),
                      {layer.attention_norm, layer.qkv.weight(), layer.attention_out.weight(),
                       layer.mlp_norm, layer.gate_up.weight(), layer.mlp_out.weight()});
  }
  parameters.push_back(final_norm_);
  if (!plan_.config().tie_word_embeddings) parameters.push_back(head_.weight());
  return parameters;
}

bool Llama::logits_are_sharded() const {
  return plan_.vocabulary(context_.tensor().rank()).rows() < plan_.config().vocab_size;
}

std::int64_t Llama::weight_bytes() const {
  std::int64_t bytes = 0;
  for (const ParameterPointer& parameter : parameters()) bytes += parameter->bytes();
  return bytes;
}

std::vector<const Weight*> Llama::product_weights() const {
  std::vector<const Weight*> weights;
  for (const Layer& layer : layers_) {
    weights.insert(weights.end(),
                   {&layer.qkv.weight()->weight(), &layer.attention_out.weight()->weight(),
                    &layer.gate_up.weight()->weight(), &layer.mlp_out.weight()->weight()});
  }
  weights.push_back(&head_.weight()->weight());
  return weights;
}

std::vector<std::int32_t> Llama::local_values(std::span<const std::int32_t> values,
                                              std::int64_t batch) const {
  const std::int64_t length = std::ssize(values) / batch;
  const SequenceSharding sharding = context_.attention().sharding(length);
  std::vector<std::int32_t> local;
  for (std::int64_t b = 0; b < batch; ++b) {
    for (const TokenRun& run : sharding.runs(context_.mesh().coordinates().context)) {
      const auto first = values.begin() + b * length + run.position;
      local.insert(local.end(), first, first + run.length);
    }
  }
  return local;
}

Tensor Llama::local_positions(std::int64_t batch, const SequenceSharding& sharding) const {
  const int rank = context_.mesh().coordinates().context;
  std::vector<std::int32_t> positions;
  for (std::int64_t b = 0; b < batch; ++b) {
    for (const TokenRun& run : sharding.runs(rank)) {
      for (std::int64_t t = 0; t < run.length; ++t) {
        positions.push_back(static_cast<std::int32_t>(run.position + t));
      }
    }
  }
  return upload(positions, {batch * sharding.local_tokens(rank)}, device_);
}

Variable Llama::attention(std::size_t index, const Variable& normed, const Pass& pass) const {
  const ProfilingRegion region(device_, "Portolan::Llama::attention");
  const Layer& layer = layers_[index];
  const LlamaConfig& config = plan_.config();
  const int rank = context_.tensor().rank();
  SelfAttention attention{
      .heads = plan_.query_heads(rank),
      .kv_heads = plan_.key_value_heads(rank),
      .head_dim = config.head_dim,
      .groups = head_groups(plan_.first_query_head(rank), plan_.query_heads(rank),
                            config.attention_heads / config.kv_heads),
      .scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(config.head_dim))),
      .window = config.sliding_window.value_or(0)};
  attention.dropout = {.probability = pass.options.attention_dropout,
                       .key = pass.options.dropout_key,
                       .first_head = plan_.first_query_head(rank)};
  attention.dropout.key.stream += index;  // layers draw independently

  const Variable qkv = layer.qkv.forward(
      context_.tensor().enter(normed, pass.tokens, plan_.attention_is_sharded(), pass.selective));
  // Queries and keys lie side by side, so one pass rotates both.
  const Variable rotated =
      functional::rotary_embedding(qkv, attention.heads + attention.kv_heads, config.head_dim,
                                   pass.positions, rotary_.cosines, rotary_.sines);
  return layer.attention_out.forward(
      self_attention(rotated, attention, context_.attention(), pass.sharding));
}

Variable Llama::mlp(const Layer& layer, const Variable& normed, const Pass& pass) const {
  const ProfilingRegion region(device_, "Portolan::Llama::mlp");
  const auto expand = [&] {
    return functional::swiglu(layer.gate_up.forward(context_.tensor().enter(
                                  normed, pass.tokens, plan_.mlp_is_sharded(), pass.selective)),
                              pass.selective);
  };
  return layer.mlp_out.forward(expand());
}

functional::NormedSum Llama::block(std::size_t index, const Variable& normed,
                                   const Variable& residual, const Pass& pass) const {
  const Layer& layer = layers_[index];
  const bool last = index + 1 == layers_.size();
  const auto epsilon = static_cast<float>(plan_.config().rms_norm_epsilon);
  const functional::NormedSum middle = functional::add_rms_norm(
      attention(index, normed, pass), residual, layer.mlp_norm, epsilon, pass.selective);
  return functional::add_rms_norm(mlp(layer, middle.normed, pass), middle.sum,
                                  last ? final_norm_ : layers_[index + 1].attention_norm, epsilon,
                                  pass.selective);
}

Tensor Llama::forward(std::span<const std::int32_t> ids, std::int64_t batch,
                      const HiddenStateObserver& observer) const {
  return forward(ids, batch, ForwardOptions{.observer = observer}).value();
}

Variable Llama::forward(std::span<const std::int32_t> ids, std::int64_t batch,
                        const ForwardOptions& options) const {
  const ProfilingRegion region(device_, "Portolan::Llama::forward");
  require(batch > 0 && !ids.empty() && static_cast<std::int64_t>(ids.size()) % batch == 0,
          "{} token ids do not form a batch of {} sequences", ids.size(), batch);
  const std::int64_t length = static_cast<std::int64_t>(ids.size()) / batch;
  require(length <= rotary_.cosines.dim(0), "a sequence of {} tokens exceeds the model's {}",
          length, rotary_.cosines.dim(0));
  const SequenceSharding sharding = context_.attention().sharding(length);
  const Pass pass{.sharding = sharding,
                  .tokens = sharding.local_tokens(context_.mesh().coordinates().context),
                  .positions = local_positions(batch, sharding),
                  .options = options,
                  .selective = options.recomputation == Recomputation::selective};
  const auto observe = [&options](const std::string& name, const Variable& state) {
    if (options.observer) options.observer(name, state.value());
  };

  Variable residual = embedding_.forward(
      upload(local_values(ids, batch), {batch, pass.tokens}, device_), options.tape);
  observe("embed", residual);
  Variable normed =
      functional::rms_norm(residual, layers_.front().attention_norm,
                           static_cast<float>(plan_.config().rms_norm_epsilon), pass.selective);
  for (std::size_t index = 0; index < layers_.size(); ++index) {
    if (options.tape != nullptr && options.recomputation == Recomputation::full) {
      const std::vector<Variable> outputs = options.tape->checkpoint(
          // By value: it runs again after this function has returned.
          [this, index, pass](std::span<const Variable> inputs) {
            functional::NormedSum result = block(index, inputs[0], inputs[1], pass);
            return std::vector<Variable>{std::move(result.normed), std::move(result.sum)};
          },
          {normed, residual});
      normed = outputs[0];
      residual = outputs[1];
    } else {
      functional::NormedSum result = block(index, normed, residual, pass);
      normed = std::move(result.normed);
      residual = std::move(result.sum);
    }
    if (options.observer) observe(fmt::format("layer.{}", index), residual);
  }
  observe("final", normed);
  return head_.forward(context_.tensor().enter(normed, pass.tokens, logits_are_sharded()));
}

Tensor Llama::gather_logits(const Tensor& logits, std::span<const std::int64_t> wanted,
                            std::int64_t length) const {
  const MeshCoordinates& coordinates = context_.mesh().coordinates();
  const SequenceSharding sharding(length, context_.mesh().shape().context);
  const ShardRange vocabulary = plan_.vocabulary(coordinates.tensor);
  const Tensor gathered = Tensor::empty(
      {static_cast<std::int64_t>(wanted.size()), plan_.config().vocab_size}, DType::f32, device_);
  ops::fill(gathered, 0.0F);
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    const std::int64_t sequence = wanted[i] / length;
    const std::int64_t position = wanted[i] % length;
    require(wanted[i] >= 0 && sequence < logits.dim(0), "logit row {} lies outside the batch",
            wanted[i]);
    // Replicated logits are contributed once.
    if (!logits_are_sharded() && coordinates.tensor != 0) continue;
    std::int64_t row = 0;
    for (const TokenRun& run : sharding.runs(coordinates.context)) {
      if (position >= run.position && position < run.position + run.length) {
        const std::int64_t t = row + position - run.position;
        const auto line = static_cast<std::int64_t>(i);
        ops::copy(
            rows(logits).slice(0, sequence * logits.dim(1) + t, sequence * logits.dim(1) + t + 1),
            gathered.slice(0, line, line + 1).slice(1, vocabulary.row_begin, vocabulary.row_end));
      }
      row += run.length;
    }
  }
  // Adding zeros is exact, so a sum is a gather that knows nothing of who holds what.
  context_.world().all_reduce(gathered);
  return ops::to_host(gathered);
}

}  // namespace portolan
