// SPDX-License-Identifier: Apache-2.0
#include "models/llama.hpp"

#include <cmath>

#include "core/error.hpp"
#include "core/ops.hpp"

namespace portolan {
namespace {

Tensor rows(const Tensor& x) { return x.view({x.dim(0) * x.dim(1), x.dim(2)}); }

Tensor like(const Tensor& x) { return Tensor::empty(x.shape(), x.dtype(), x.device()); }

/// Copies host integers to a device tensor.
Tensor upload(const std::vector<std::int32_t>& values, const Shape& shape, Device device) {
  const Tensor tensor = Tensor::empty(shape, DType::i32, device);
  Backend& backend = backend_of(device);
  backend.copy_bytes(tensor.raw(), values.data(), tensor.bytes(), Queue::compute);
  backend.synchronize();
  return tensor;
}

}  // namespace

Llama::Llama(const LlamaPlan& plan, const ParallelContext& context, WeightSource& source,
             DType dtype, Device device, std::int64_t maximum_length)
    : plan_(plan),
      context_(context),
      dtype_(dtype),
      device_(device),
      rotary_(make_rotary_tables(plan.config(), maximum_length, device)),
      embedding_(Tensor(), 0, context.tensor(), false),
      head_(Weight()) {
  const ProfilingRegion region(device, "Portolan::Llama::load");
  const TensorParallelGroup& group = context.tensor();
  const ShardLoader loader(plan_.parameters(), group.rank(), source, dtype, device);
  const std::string table = "model.embed_tokens.weight";
  embedding_ = VocabularyParallelEmbedding(loader.plain(table), loader.range(table).row_begin,
                                           group, plan_.embedding_is_sharded());
  layers_.reserve(static_cast<std::size_t>(plan_.config().layers));
  for (std::int64_t index = 0; index < plan_.config().layers; ++index) {
    const std::string prefix = fmt::format("model.layers.{}.", index);
    const std::string attention = prefix + "self_attn.";
    layers_.push_back({loader.plain(prefix + "input_layernorm.weight"),
                       ColumnParallelLinear(
                           loader.packed({attention + "q_proj.weight", attention + "k_proj.weight",
                                          attention + "v_proj.weight"})),
                       RowParallelLinear(loader.packed({attention + "o_proj.weight"}), group,
                                         plan_.attention_is_sharded()),
                       loader.plain(prefix + "post_attention_layernorm.weight"),
                       ColumnParallelLinear(loader.packed(
                           {prefix + "mlp.gate_proj.weight", prefix + "mlp.up_proj.weight"})),
                       RowParallelLinear(loader.packed({prefix + "mlp.down_proj.weight"}), group,
                                         plan_.mlp_is_sharded())});
  }
  final_norm_ = loader.plain("model.norm.weight");
  head_ =
      ColumnParallelLinear(plan_.config().tie_word_embeddings ? Weight::plain(embedding_.table())
                                                              : loader.packed({"lm_head.weight"}));
  backend_of(device).synchronize();
}

std::int64_t Llama::weight_bytes() const {
  std::size_t bytes = embedding_.table().bytes() + final_norm_.bytes();
  if (!plan_.config().tie_word_embeddings) bytes += head_.weight().bytes();
  for (const Layer& layer : layers_) {
    bytes += layer.attention_norm.bytes() + layer.mlp_norm.bytes() + layer.qkv.weight().bytes() +
             layer.attention_out.weight().bytes() + layer.gate_up.weight().bytes() +
             layer.mlp_out.weight().bytes();
  }
  return static_cast<std::int64_t>(bytes);
}

std::vector<const Weight*> Llama::product_weights() const {
  std::vector<const Weight*> weights;
  for (const Layer& layer : layers_) {
    weights.insert(weights.end(), {&layer.qkv.weight(), &layer.attention_out.weight(),
                                   &layer.gate_up.weight(), &layer.mlp_out.weight()});
  }
  weights.push_back(&head_.weight());
  return weights;
}

Tensor Llama::local_ids(std::span<const std::int32_t> ids, std::int64_t batch,
                        const SequenceSharding& sharding) const {
  const int rank = context_.mesh().coordinates().context;
  const std::int64_t length = sharding.sequence_length();
  std::vector<std::int32_t> local;
  for (std::int64_t b = 0; b < batch; ++b) {
    for (const TokenRun& run : sharding.runs(rank)) {
      const auto first = ids.begin() + b * length + run.position;
      local.insert(local.end(), first, first + run.length);
    }
  }
  return upload(local, {batch, sharding.local_tokens(rank)}, device_);
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

Tensor Llama::attention(const Layer& layer, const Tensor& normed, const Tensor& positions,
                        const SequenceSharding& sharding) const {
  const ProfilingRegion region(device_, "Portolan::Llama::attention");
  const LlamaConfig& config = plan_.config();
  const int rank = context_.tensor().rank();
  const std::int64_t tokens = sharding.local_tokens(context_.mesh().coordinates().context);
  const std::int64_t heads = plan_.query_heads(rank);
  const std::int64_t kv_heads = plan_.key_value_heads(rank);
  const std::int64_t head_dim = config.head_dim;

  const Tensor qkv = layer.qkv.forward(context_.tensor().enter(normed, tokens));
  const auto part = [&](std::int64_t first_head, std::int64_t count) {
    return qkv.slice(2, first_head * head_dim, (first_head + count) * head_dim).split_last(count);
  };
  const Tensor q = part(0, heads);
  const Tensor k = part(heads, kv_heads);
  const Tensor v = part(heads + kv_heads, kv_heads);
  // Queries and keys lie side by side, so one pass rotates both.
  const Tensor rotated =
      rows(qkv).slice(1, 0, (heads + kv_heads) * head_dim).split_last(heads + kv_heads);
  ops::rotary_embedding(rotated, positions, rotary_.cosines, rotary_.sines);

  const Tensor out =
      Tensor::empty({qkv.dim(0), tokens, heads, head_dim}, qkv.dtype(), qkv.device());
  const auto scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(head_dim)));
  const std::int64_t window = config.sliding_window.value_or(0);
  const std::vector<HeadGroup> groups =
      head_groups(plan_.first_query_head(rank), heads, config.attention_heads / config.kv_heads);
  context_.attention().forward(q, k, v, groups, scale, window, sharding, out);
  return layer.attention_out.forward(out.view({out.dim(0), tokens, heads * head_dim}));
}

Tensor Llama::mlp(const Layer& layer, const Tensor& normed, std::int64_t tokens) const {
  const ProfilingRegion region(device_, "Portolan::Llama::mlp");
  const auto expand = [&] {
    const Tensor gate_up = layer.gate_up.forward(context_.tensor().enter(normed, tokens));
    const std::int64_t features = gate_up.dim(2) / 2;
    const Tensor activated =
        Tensor::empty({gate_up.dim(0), tokens, features}, gate_up.dtype(), gate_up.device());
    ops::swiglu(rows(gate_up).slice(1, 0, features), rows(gate_up).slice(1, features, 2 * features),
                rows(activated));
    return activated;
  };
  return layer.mlp_out.forward(expand());
}

Tensor Llama::forward(std::span<const std::int32_t> ids, std::int64_t batch,
                      const HiddenStateObserver& observer) const {
  const ProfilingRegion region(device_, "Portolan::Llama::forward");
  require(batch > 0 && !ids.empty() && static_cast<std::int64_t>(ids.size()) % batch == 0,
          "{} token ids do not form a batch of {} sequences", ids.size(), batch);
  const std::int64_t length = static_cast<std::int64_t>(ids.size()) / batch;
  require(length <= rotary_.cosines.dim(0), "a sequence of {} tokens exceeds the model's {}",
          length, rotary_.cosines.dim(0));
  const SequenceSharding sharding = context_.attention().sharding(length);
  const std::int64_t tokens = sharding.local_tokens(context_.mesh().coordinates().context);
  const Tensor positions = local_positions(batch, sharding);
  const auto epsilon = static_cast<float>(plan_.config().rms_norm_epsilon);

  const Tensor residual = embedding_.forward(local_ids(ids, batch, sharding));
  const Tensor normed = like(residual);
  if (observer) observer("embed", residual);
  ops::rms_norm(rows(residual), layers_.front().attention_norm, epsilon, rows(normed));
  for (std::size_t index = 0; index < layers_.size(); ++index) {
    const Layer& layer = layers_[index];
    const bool last = index + 1 == layers_.size();
    ops::add_rms_norm(rows(attention(layer, normed, positions, sharding)), rows(residual),
                      layer.mlp_norm, epsilon, rows(normed));
    ops::add_rms_norm(rows(mlp(layer, normed, tokens)), rows(residual),
                      last ? final_norm_ : layers_[index + 1].attention_norm, epsilon,
                      rows(normed));
    if (observer) observer(fmt::format("layer.{}", index), residual);
  }
  if (observer) observer("final", normed);
  return head_.forward(context_.tensor().enter(normed, tokens));
}

Tensor Llama::gather_logits(const Tensor& logits, std::span<const std::int64_t> wanted,
                            std::int64_t length) const {
  const MeshCoordinates& coordinates = context_.mesh().coordinates();
  const SequenceSharding sharding(length, context_.mesh().shape().context);
  const ShardRange vocabulary = plan_.vocabulary(coordinates.tensor);
  const bool columns_sharded = vocabulary.rows() < plan_.config().vocab_size;
  const Tensor gathered = Tensor::empty(
      {static_cast<std::int64_t>(wanted.size()), plan_.config().vocab_size}, DType::f32, device_);
  ops::fill(gathered, 0.0F);
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    const std::int64_t sequence = wanted[i] / length;
    const std::int64_t position = wanted[i] % length;
    require(wanted[i] >= 0 && sequence < logits.dim(0), "logit row {} lies outside the batch",
            wanted[i]);
    // Replicated logits are contributed once.
    if (!columns_sharded && coordinates.tensor != 0) continue;
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
