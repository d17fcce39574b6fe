// SPDX-License-Identifier: Apache-2.0
#include "models/generation/recorded_decoding.hpp"

#include "core/error.hpp"
#include "models/model.hpp"

namespace portolan {
namespace {

const Model& working_alone(const Model& model) {
  require(model.context().world().size() == 1,
          "decoding is recorded for one rank, not for {} that exchange messages",
          model.context().world().size());
  return model;
}

}  // namespace

RecordedDecoding::RecordedDecoding(const Model& model, KeyValueCache& cache)
    : model_(working_alone(model)),
      cache_(cache),
      inputs_(Tensor::empty({4 * cache.batch()}, DType::i32, model.device())),
      logits_(Tensor::empty({cache.batch(), model.plan().dimensions().vocab_size}, DType::f32,
                            model.device())) {
  const std::int64_t batch = cache.batch();
  cache_.read_rows_from(inputs_.slice(0, 2 * batch, 4 * batch).view({batch, 2}));
}

RecordedDecoding::~RecordedDecoding() { cache_.read_rows_from({}); }

const Tensor& RecordedDecoding::append(std::span<const std::int32_t> ids,
                                       const std::vector<KeyRange>& real_tokens) {
  const std::int64_t batch = cache_.batch();
  const ForwardOptions options{.real_tokens = real_tokens, .cache = &cache_};
  model_.check(ids, batch, options);
  require(std::ssize(ids) == batch, "{} tokens for {} sequences", ids.size(), batch);
  std::vector<std::int32_t> inputs(ids.begin(), ids.end());
  const std::vector<std::int32_t> positions = model_.all_positions(ids, batch, options);
  inputs.insert(inputs.end(), positions.begin(), positions.end());
  cache_.extend(1);
  for (std::int64_t entry = 0; entry < batch; ++entry) {
    const KeyRange rows = real_tokens.empty() ? KeyRange{0, cache_.length()}
                                              : real_tokens[static_cast<std::size_t>(entry)];
    inputs.push_back(static_cast<std::int32_t>(rows.begin));
    inputs.push_back(static_cast<std::int32_t>(rows.end));
  }
  Backend& backend = backend_of(model_.device());
  backend.copy_bytes(inputs_.raw(), inputs.data(), inputs_.bytes(), Queue::compute);
  if (pass_) {
    pass_->start();
    return logits_;
  }
  pass_ = backend.run_and_record([this, batch] {
    model_.enqueue_next(inputs_.slice(0, 0, batch).view({batch, 1}),
                        inputs_.slice(0, batch, 2 * batch), cache_, logits_);
  });
  return logits_;
}

}  // namespace portolan
