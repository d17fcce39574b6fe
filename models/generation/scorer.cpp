// SPDX-License-Identifier: Apache-2.0
#include "models/generation/scorer.hpp"

#include <algorithm>
#include <optional>

#include "core/error.hpp"
#include "core/ops.hpp"
#include "models/generation/recorded_decoding.hpp"
#include "models/model.hpp"
#include "parallel/key_value_cache.hpp"

namespace portolan {
namespace {

/// Sequences side by side, padded in front to one length.
struct Padded {
  TokenIds ids;  ///< [batch][length]
  std::int64_t length = 0;
  std::vector<KeyRange> real_tokens;
};

Padded padded(std::span<const TokenIds> sequences) {
  Padded batch;
  for (const TokenIds& ids : sequences) {
    require(!ids.empty(), "a prompt without tokens has nothing to go on from");
    batch.length = std::max<std::int64_t>(batch.length, std::ssize(ids));
  }
  for (const TokenIds& ids : sequences) {
    const std::int64_t padding = batch.length - std::ssize(ids);
    batch.ids.insert(batch.ids.end(), static_cast<std::size_t>(padding), ids.front());
    batch.ids.insert(batch.ids.end(), ids.begin(), ids.end());
    batch.real_tokens.push_back({padding, batch.length});
  }
  return batch;
}

NextTokenLogits logits_of(const Model& model, std::span<const std::int32_t> ids,
                          const ForwardOptions& options, std::int64_t batch) {
  return {model.next_logits(ids, batch, options)};
}

/// Computes each token once.
class CachedScorer final : public SequenceScorer {
 public:
  CachedScorer(const Model& model, std::int64_t longest, bool record)
      : model_(model), longest_(longest), record_(record) {}

  NextTokenLogits start(std::span<const TokenIds> prompts) override {
    const Padded batch = padded(prompts);
    real_tokens_ = batch.real_tokens;
    forget_recording();
    cache_.reset();  // its memory serves the next
    cache_.emplace(model_.make_cache(std::ssize(prompts), longest_));
    return pass(batch.ids);
  }

  NextTokenLogits append(std::span<const std::int32_t> ids) override {
    for (KeyRange& tokens : real_tokens_) ++tokens.end;
    ++appended_;
    if (!record_ || appended_ < kFirstRecorded) return pass(ids);
    if (!recorded_) recorded_.emplace(model_, *cache_);
    has_recorded_ = true;
    return {recorded_->append(ids, real_tokens_)};
  }

  void select(std::span<const std::int64_t> entries) override {
    forget_recording();
    cache_->select(entries);
    std::vector<KeyRange> selected;
    for (const std::int64_t entry : entries) {
      selected.push_back(real_tokens_[static_cast<std::size_t>(entry)]);
    }
    real_tokens_ = std::move(selected);
  }

  [[nodiscard]] bool has_recorded() const override { return has_recorded_; }

 private:
  /// A recording is of these very sequences, and pays when it is repeated: those that are selected
  /// from in each step, as beams are, never get so far.
  static constexpr std::int64_t kFirstRecorded = 2;

  void forget_recording() {
    recorded_.reset();
    appended_ = 0;
  }

  NextTokenLogits pass(std::span<const std::int32_t> ids) {
    return logits_of(model_, ids, {.real_tokens = real_tokens_, .cache = &*cache_},
                     std::ssize(real_tokens_));
  }

  const Model& model_;
  std::int64_t longest_;
  bool record_;
  std::optional<KeyValueCache> cache_;
  std::optional<RecordedDecoding> recorded_;
  bool has_recorded_ = false;
  std::int64_t appended_ = 0;  ///< since the sequences were made or selected
  std::vector<KeyRange> real_tokens_;
};

/// Computes whole sequences each time.
class WholeScorer final : public SequenceScorer {
 public:
  explicit WholeScorer(const Model& model) : model_(model) {}

  NextTokenLogits start(std::span<const TokenIds> prompts) override {
    sequences_.assign(prompts.begin(), prompts.end());
    return pass();
  }

  NextTokenLogits append(std::span<const std::int32_t> ids) override {
    for (std::size_t i = 0; i < sequences_.size(); ++i) sequences_[i].push_back(ids[i]);
    return pass();
  }

  void select(std::span<const std::int64_t> entries) override {
    std::vector<TokenIds> selected;
    for (const std::int64_t entry : entries) {
      selected.push_back(sequences_[static_cast<std::size_t>(entry)]);
    }
    sequences_ = std::move(selected);
  }

 private:
  NextTokenLogits pass() {
    const Padded batch = padded(sequences_);
    return logits_of(model_, batch.ids, {.real_tokens = batch.real_tokens}, std::ssize(sequences_));
  }

  const Model& model_;
  std::vector<TokenIds> sequences_;
};

}  // namespace

std::span<float> NextTokenLogits::row(std::int64_t sequence) {
  if (!host.defined()) host = ops::to_host(values);
  const std::int64_t vocabulary = host.dim(1);
  return {host.data<float>() + sequence * vocabulary, static_cast<std::size_t>(vocabulary)};
}

std::unique_ptr<SequenceScorer> make_scorer(const Model& model, std::int64_t longest,
                                            const ScorerOptions& options) {
  require(model.is_causal(), "only causal models generate; this one fills masks");
  require(longest <= model.maximum_length(),
          "prompt and new tokens together are {}, the model takes {}", longest,
          model.maximum_length());
  const bool gains = options.use_cache && model.context().world().size() == 1 &&
                     backend_of(model.device()).prefers_recorded_work();
  const bool record = options.record.value_or(gains);
  require(!record || options.use_cache, "decoding without a key/value cache cannot be recorded");
  require(!record || model.context().world().size() == 1,
          "decoding can be recorded on one rank, not on {}", model.context().world().size());
  if (options.use_cache) return std::make_unique<CachedScorer>(model, longest, record);
  return std::make_unique<WholeScorer>(model);
}

}  // namespace portolan
