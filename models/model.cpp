// SPDX-License-Identifier: Apache-2.0
#include "models/model.hpp"

#include <algorithm>
#include <utility>

#include "core/error.hpp"
#include "core/ops.hpp"
#include "models/upload.hpp"

namespace portolan {
namespace {

/// Of values [batch, length] those of the tokens in `runs`.
std::vector<std::int32_t> dealt(std::span<const std::int32_t> values,
                                std::span<const TokenRun> runs, std::int64_t batch) {
  const std::int64_t length = std::ssize(values) / batch;
  std::vector<std::int32_t> local;
  for (std::int64_t b = 0; b < batch; ++b) {
    for (const TokenRun& run : runs) {
      const auto first = values.begin() + b * length + run.position;
      local.insert(local.end(), first, first + run.length);
    }
  }
  return local;
}

}  // namespace

Tensor ForwardPass::between_blocks(const Tensor& values) const {
  const TensorParallelGroup& group = context.tensor();
  if (!group.sequence_parallel()) return values;
  const Partition partition = group.tokens(tokens);
  const std::int64_t begin = partition.offset(group.rank());
  const Tensor own = values.view({values.elements() / std::max<std::int64_t>(1, tokens), tokens})
                         .slice(1, begin, begin + partition.share(group.rank()));
  return ops::to_dtype(own, values.dtype()).view({own.elements()});
}

Model::Model(const ModelSetup& setup, NormPlace norm_place)
    : embedding_(nullptr, 0, setup.context.tensor(), false),
      head_(nullptr),
      plan_(setup.plan),
      context_(setup.context),
      dtype_(setup.dtype),
      device_(setup.device),
      maximum_length_(std::min(setup.maximum_length,
                               plan_.outline().longest_sequence.value_or(setup.maximum_length))),
      norm_place_(norm_place) {}

void Model::adopt(const ShardLoader& loader) {
  parameters_ = loader.loaded();
  for (const ParameterPointer& matrix : loader.products()) {
    product_weights_.push_back(&matrix->weight());
  }
  if (head_.weight() == embedding_.table()) product_weights_.push_back(&head_.weight()->weight());
  backend_of(device_).synchronize();
}

bool Model::logits_are_sharded() const {
  // By the plan, so that ranks agree however few rows there are.
  return plan_.parameters().at(plan_.outline().head).style != ShardStyle::replicate;
}

std::int64_t Model::weight_bytes() const {
  std::int64_t bytes = 0;
  for (const ParameterPointer& parameter : parameters_) bytes += parameter->bytes();
  return bytes;
}

std::vector<std::int32_t> Model::local_values(std::span<const std::int32_t> values,
                                              std::int64_t batch) const {
  const SequenceSharding sharding = context_.attention().sharding(std::ssize(values) / batch);
  return dealt(values, sharding.runs(context_.mesh().coordinates().context), batch);
}

std::vector<std::int32_t> Model::positions(std::span<const std::int32_t> ids,
                                           const KeyRange& real_tokens) const {
  std::vector<std::int32_t> positions(ids.size());
  for (std::int64_t t = 0; t < std::ssize(ids); ++t) {
    positions[static_cast<std::size_t>(t)] =
        static_cast<std::int32_t>(std::max<std::int64_t>(0, t - real_tokens.begin));
  }
  return positions;
}

Variable Model::embed(const ForwardPass& pass) const {
  return embedding_.forward(pass.ids, pass.options.tape);
}

Variable Model::logits(const Variable& normed, const ForwardPass& pass) const {
  Variable entered = context_.tensor().enter(normed, pass.tokens, logits_are_sharded());
  if (pass.options.last_only && pass.tokens > 1) {
    const Tensor last = entered.value().slice(1, pass.tokens - 1, pass.tokens);
    entered = ops::to_dtype(last, last.dtype());  // dense
  }
  return head_.forward(entered);
}

Model::Stream Model::block(std::size_t index, const Stream& stream, const ForwardPass& pass) const {
  const Layer& layer = layers_[index];
  if (norm_place_ == NormPlace::behind) {
    const functional::NormedSum middle =
        functional::add_normed(layer.attention.forward(stream.normed, pass), layer.attention.bias(),
                               stream.normed, layer.attention_norm, pass.selective);
    functional::NormedSum result =
        functional::add_normed(layer.mlp->forward(middle.normed, pass), layer.mlp->bias(),
                               middle.normed, layer.mlp_norm, pass.selective);
    return {result.normed, result.normed};
  }
  const bool last = index + 1 == layers_.size();
  const functional::NormedSum middle =
      functional::add_normed(layer.attention.forward(stream.normed, pass), layer.attention.bias(),
                             stream.residual, layer.mlp_norm, pass.selective);
  functional::NormedSum result = functional::add_normed(
      layer.mlp->forward(middle.normed, pass), layer.mlp->bias(), middle.sum,
      last ? final_norm_ : layers_[index + 1].attention_norm, pass.selective);
  return {std::move(result.normed), std::move(result.sum)};
}

SequenceSharding Model::announce_tokens(std::int64_t length, std::int64_t batch,
                                        const ForwardOptions& options) const {
  const AttentionStrategy& strategy = context_.attention();
  KeyValueCache* const cache = options.cache;
  if (cache == nullptr) return strategy.sharding(length);
  require(is_causal() && options.tape == nullptr && cache->batch() == batch,
          "a cache of {} sequences serves inference over {} sequences of a causal model only",
          cache->batch(), cache->batch());
  if (cache->length() > 0) {
    cache->extend(length);
    return strategy.following(length);
  }
  SequenceSharding sharding = strategy.sharding(length);
  cache->extend(length, sharding.runs(context_.mesh().coordinates().context));
  return sharding;
}

void Model::check(std::span<const std::int32_t> ids, std::int64_t batch,
                  const ForwardOptions& options) const {
  require(batch > 0 && !ids.empty() && std::ssize(ids) % batch == 0,
          "{} token ids do not form a batch of {} sequences", ids.size(), batch);
  const std::int64_t vocabulary = plan_.dimensions().vocab_size;
  for (const std::int32_t id : ids) {
    require(id >= 0 && id < vocabulary, "token id {} lies outside the vocabulary of {}", id,
            vocabulary);
  }
  const std::int64_t past = options.cache == nullptr ? 0 : options.cache->length();
  const std::int64_t length = past + std::ssize(ids) / batch;
  require(length <= maximum_length_, "a sequence of {} tokens exceeds the model's {}", length,
          maximum_length_);
  const std::vector<KeyRange>& real = options.real_tokens;
  require(real.empty() || std::ssize(real) == batch,
          "{} ranges of real tokens for a batch of {} sequences", real.size(), batch);
  for (const KeyRange& tokens : real) {
    require(tokens.begin >= 0 && tokens.begin <= tokens.end && tokens.end <= length,
            "real tokens [{}, {}) of a sequence of {}", tokens.begin, tokens.end, length);
  }
  const std::vector<std::int32_t>& types = options.token_types;
  require(types.empty() || types.size() == ids.size(), "{} token types for {} token ids",
          types.size(), ids.size());
  for (const std::int32_t type : types) {
    require(type >= 0 && type < plan_.outline().token_types,
            "token type {}, the model knows {} types", type, plan_.outline().token_types);
  }
}

std::vector<std::int32_t> Model::all_positions(std::span<const std::int32_t> ids,
                                               std::int64_t batch,
                                               const ForwardOptions& options) const {
  const std::int64_t past = options.cache == nullptr ? 0 : options.cache->length();
  const std::size_t length = ids.size() / static_cast<std::size_t>(batch);
  std::vector<std::int32_t> all;
  for (std::size_t row = 0; row * length < ids.size(); ++row) {
    KeyRange real{-past, static_cast<std::int64_t>(length)};
    if (!options.real_tokens.empty()) {
      real = {options.real_tokens[row].begin - past, options.real_tokens[row].end - past};
    }
    const std::vector<std::int32_t> own = positions(ids.subspan(row * length, length), real);
    all.insert(all.end(), own.begin(), own.end());
  }
  return all;
}

ForwardPass Model::start(std::span<const std::int32_t> ids, std::int64_t batch,
                         const ForwardOptions& options) const {
  check(ids, batch, options);
  const std::int64_t length = std::ssize(ids) / batch;
  const std::vector<std::int32_t> positions = all_positions(ids, batch, options);
  const SequenceSharding sharding = announce_tokens(length, batch, options);
  const int rank = context_.mesh().coordinates().context;
  const std::vector<TokenRun> runs = sharding.runs(rank);
  const std::int64_t tokens = sharding.local_tokens(rank);
  ForwardPass pass{
      .context = context_,
      .sharding = sharding,
      .tokens = tokens,
      .ids = upload(dealt(ids, runs, batch), {batch, tokens}, DType::i32, device_),
      .positions = upload(dealt(positions, runs, batch), {batch * tokens}, DType::i32, device_),
      .options = options,
      .selective = options.recomputation == Recomputation::selective};
  if (plan_.outline().token_types > 0) {
    std::vector<std::int32_t> types = options.token_types;
    types.resize(ids.size(), 0);
    pass.token_types = upload(dealt(types, runs, batch), {batch * tokens}, DType::i32, device_);
  }
  // Under a causal mask no real token sees padding behind it.
  if (is_causal() && std::ranges::all_of(options.real_tokens,
                                         [](const KeyRange& each) { return each.begin == 0; })) {
    pass.options.real_tokens.clear();
  }
  return pass;
}

Model::Stream Model::enter_blocks(const ForwardPass& pass) const {
  const Variable embedded = embed(pass);
  if (pass.options.observer) pass.options.observer("embed", embedded.value());
  if (norm_place_ == NormPlace::behind) return {embedded, embedded};
  return {functional::normed(embedded, layers_.front().attention_norm, pass.selective), embedded};
}

Model::Stream Model::run_blocks(Stream stream, const ForwardPass& pass) const {
  const ForwardOptions& options = pass.options;
  for (std::size_t index = 0; index < layers_.size(); ++index) {
    if (options.tape != nullptr && options.recomputation == Recomputation::full) {
      const std::vector<Variable> outputs = options.tape->checkpoint(
          // By value: it runs again after this function has returned.
          [this, index, pass](std::span<const Variable> inputs) {
            Stream result = block(index, {inputs[0], inputs[1]}, pass);
            return std::vector<Variable>{std::move(result.normed), std::move(result.residual)};
          },
          {stream.normed, stream.residual});
      stream = {outputs[0], outputs[1]};
    } else {
      stream = block(index, stream, pass);
    }
    if (options.observer) options.observer(fmt::format("layer.{}", index), stream.residual.value());
  }
  return stream;
}

Tensor Model::forward(std::span<const std::int32_t> ids, std::int64_t batch,
                      const HiddenStateObserver& observer) const {
  return forward(ids, batch, ForwardOptions{.observer = observer}).value();
}

Variable Model::forward(std::span<const std::int32_t> ids, std::int64_t batch,
                        const ForwardOptions& options) const {
  const ProfilingRegion region(device_, "Portolan::Model::forward");
  const ForwardPass pass = start(ids, batch, options);
  Stream stream = run_blocks(enter_blocks(pass), pass);
  if (options.observer && has_final_norm()) options.observer("final", stream.normed.value());
  return logits(stream.normed, pass);
}

Tensor Model::next_logits(std::span<const std::int32_t> ids, std::int64_t batch,
                          const ForwardOptions& options) const {
  const bool follows = options.cache != nullptr && options.cache->length() > 0;
  ForwardOptions last = options;
  last.last_only = true;
  const Tensor logits = forward(ids, batch, last).value();
  if (context_.world().size() == 1) {
    const Tensor rows = logits.view({batch, logits.dim(2)});
    return rows.dtype() == DType::f32 ? rows : ops::to_dtype(rows, DType::f32);
  }
  const MeshCoordinates& at = context_.mesh().coordinates();
  // Of the ranks that share the sequence, one has its last token, or all have.
  bool has_last = at.context == 0;
  if (!follows) {
    const std::int64_t length = std::ssize(ids) / batch;
    const std::vector<TokenRun> runs = context_.attention().sharding(length).runs(at.context);
    has_last = !runs.empty() && runs.back().position + runs.back().length == length;
  }
  const Tensor gathered =
      context_.world().allocate({batch, plan_.dimensions().vocab_size}, DType::f32, device_);
  ops::fill(gathered, 0.0F);
  if (has_last && adds_logits()) {
    const ShardRange vocabulary = plan_.vocabulary(at.tensor);
    ops::copy(logits.view({batch, logits.dim(2)}),
              gathered.slice(1, vocabulary.row_begin, vocabulary.row_end));
  }
  // Adding zeros is exact, so a sum is a gather that knows nothing of who holds what.
  context_.world().all_reduce(gathered);
  return gathered;
}

void Model::enqueue_next(const Tensor& ids, const Tensor& positions, KeyValueCache& cache,
                         const Tensor& logits) const {
  const ForwardPass pass{.context = context_,
                         .sharding = context_.attention().following(1),
                         .tokens = 1,
                         .ids = ids,
                         .positions = positions,
                         .options = {.cache = &cache, .last_only = true}};
  const Stream stream = run_blocks(enter_blocks(pass), pass);
  ops::copy(this->logits(stream.normed, pass).value().view(logits.shape()), logits);
}

bool Model::adds_logits() const {
  const MeshCoordinates& at = context_.mesh().coordinates();
  return at.data == 0 && (logits_are_sharded() || at.tensor == 0);
}

KeyValueCache Model::make_cache(std::int64_t batch, std::int64_t tokens) const {
  const MeshCoordinates& at = context_.mesh().coordinates();
  return KeyValueCache({.layers = plan_.dimensions().layers,
                        .batch = batch,
                        .tokens = tokens,
                        .kv_heads = plan_.key_value_heads(at.tensor),
                        .head_dim = plan_.dimensions().head_dim},
                       dtype_, device_, at.context, context_.mesh().shape().context);
}

Tensor Model::gather_logits(const Tensor& logits, std::span<const std::int64_t> wanted,
                            std::int64_t length) const {
  const MeshCoordinates& coordinates = context_.mesh().coordinates();
  const SequenceSharding sharding(length, context_.mesh().shape().context);
  const ShardRange vocabulary = plan_.vocabulary(coordinates.tensor);
  const Tensor gathered =
      Tensor::empty({static_cast<std::int64_t>(wanted.size()), plan_.dimensions().vocab_size},
                    DType::f32, device_);
  ops::fill(gathered, 0.0F);
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    const std::int64_t sequence = wanted[i] / length;
    const std::int64_t position = wanted[i] % length;
    require(wanted[i] >= 0 && sequence < logits.dim(0), "logit row {} lies outside the batch",
            wanted[i]);
    if (!adds_logits()) continue;
    std::int64_t row = 0;
    for (const TokenRun& run : sharding.runs(coordinates.context)) {
      if (position >= run.position && position < run.position + run.length) {
        const std::int64_t t = row + position - run.position;
        const auto line = static_cast<std::int64_t>(i);
        ops::copy(
            functional::rows(logits).slice(0, sequence * logits.dim(1) + t,
                                           sequence * logits.dim(1) + t + 1),
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
