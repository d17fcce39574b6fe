// SPDX-License-Identifier: Apache-2.0
#include "models/model.hpp"

#include <algorithm>
#include <utility>

#include "core/error.hpp"
#include "core/ops.hpp"

namespace portolan {
namespace {

/// Copies host integers to a device tensor.
Tensor upload(const std::vector<std::int32_t>& values, const Shape& shape, Device device) {
  const Tensor tensor = Tensor::empty(shape, DType::i32, device);
  Backend& backend = backend_of(device);
  backend.copy_bytes(tensor.raw(), values.data(), tensor.bytes(), Queue::compute);
  backend.synchronize();
  return tensor;
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
  return plan_.vocabulary(context_.tensor().rank()).rows() < plan_.dimensions().vocab_size;
}

std::int64_t Model::weight_bytes() const {
  std::int64_t bytes = 0;
  for (const ParameterPointer& parameter : parameters_) bytes += parameter->bytes();
  return bytes;
}

std::vector<std::int32_t> Model::local_values(std::span<const std::int32_t> values,
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
  return head_.forward(context_.tensor().enter(normed, pass.tokens, logits_are_sharded()));
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

ForwardPass Model::start(std::span<const std::int32_t> ids, std::int64_t batch,
                         const ForwardOptions& options) const {
  require(batch > 0 && !ids.empty() && std::ssize(ids) % batch == 0,
          "{} token ids do not form a batch of {} sequences", ids.size(), batch);
  const std::int64_t length = std::ssize(ids) / batch;
  require(length <= maximum_length_, "a sequence of {} tokens exceeds the model's {}", length,
          maximum_length_);
  const std::vector<KeyRange>& real = options.real_tokens;
  require(real.empty() || std::ssize(real) == batch,
          "{} ranges of real tokens for a batch of {} sequences", real.size(), batch);
  std::vector<std::int32_t> positions;
  for (std::int64_t b = 0; b < batch; ++b) {
    const auto row = static_cast<std::size_t>(b);
    const std::vector<std::int32_t> own = this->positions(
        ids.subspan(row * static_cast<std::size_t>(length), static_cast<std::size_t>(length)),
        real.empty() ? KeyRange{0, length} : real[row]);
    positions.insert(positions.end(), own.begin(), own.end());
  }
  const SequenceSharding sharding = context_.attention().sharding(length);
  const std::int64_t tokens = sharding.local_tokens(context_.mesh().coordinates().context);
  ForwardPass pass{.context = context_,
                   .sharding = sharding,
                   .tokens = tokens,
                   .ids = upload(local_values(ids, batch), {batch, tokens}, device_),
                   .positions = upload(local_values(positions, batch), {batch * tokens}, device_),
                   .options = options,
                   .selective = options.recomputation == Recomputation::selective};
  if (plan_.outline().token_types > 0) {
    std::vector<std::int32_t> types = options.token_types;
    types.resize(types.empty() ? ids.size() : types.size(), 0);
    require(types.size() == ids.size(), "{} token types for {} token ids", types.size(),
            ids.size());
    pass.token_types = upload(local_values(types, batch), {batch * tokens}, device_);
  }
  // Under a causal mask no real token sees padding behind it.
  if (is_causal() &&
      std::ranges::all_of(real, [](const KeyRange& each) { return each.begin == 0; })) {
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
    // Replicated logits are contributed once.
    if (!logits_are_sharded() && coordinates.tensor != 0) continue;
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
