// SPDX-License-Identifier: Apache-2.0
#include "apps/generation_benchmark.hpp"

#include <algorithm>
#include <functional>

#include "apps/benchmark_samples.hpp"
#include "apps/benchmark_work.hpp"
#include "apps/forward_measurement.hpp"
#include "core/backend.hpp"
#include "core/ops.hpp"
#include "models/generation/token_chooser.hpp"

namespace portolan {
namespace {

constexpr int kReadSamples = 12;
constexpr int kPromptSamples = 3;

/// The products of one forward over a prompt, the head's for the last tokens only.
class PromptProducts {
 public:
  PromptProducts(const Model& model, const GenerationCase& setting) : model_(model) {
    const std::vector<const Weight*>& weights = model.product_weights();
    const std::int64_t rows = setting.batch * setting.prompt_tokens;
    for (const Weight* weight : weights) {
      const bool head = weight == weights.back();
      products_.push_back({weight, operand(head ? setting.batch : rows, weight->in_features()),
                           operand(head ? setting.batch : rows, weight->out_features())});
    }
  }

  void run() const {
    for (const Product& product : products_) ops::matmul(product.x, *product.weight, product.out);
  }

 private:
  struct Product {
    const Weight* weight;
    Tensor x;
    Tensor out;
  };

  /// Products of equal sizes share operands: outputs of one are written over by the next.
  Tensor operand(std::int64_t rows, std::int64_t columns) {
    for (const Tensor& tensor : operands_) {
      if (tensor.dim(0) == rows && tensor.dim(1) == columns) return tensor;
    }
    operands_.push_back(Tensor::empty({rows, columns}, model_.dtype(), model_.device()));
    ops::fill(operands_.back(), 0.01F);
    return operands_.back();
  }

  const Model& model_;
  std::vector<Tensor> operands_;
  std::vector<Product> products_;
};

std::int64_t product_bytes(const Model& model) {
  std::int64_t bytes = 0;
  for (const Weight* weight : model.product_weights()) {
    bytes += static_cast<std::int64_t>(weight->bytes());
  }
  return bytes;
}

/// Of keys and values on this rank, in the middle of the new tokens.
std::int64_t cache_bytes(const Model& model, const GenerationCase& setting) {
  if (!setting.scorer.use_cache) return 0;
  const CommonConfig& config = model.plan().dimensions();
  const int ranks = model.context().mesh().shape().context;
  const std::int64_t tokens = (setting.prompt_tokens + setting.new_tokens / 2) / ranks;
  return 2 * setting.batch * tokens * config.layers *
         model.plan().key_value_heads(model.context().tensor().rank()) * config.head_dim *
         static_cast<std::int64_t>(size_of(model.dtype()));
}

}  // namespace

double GenerationTimes::decode_rate(int ranks) const {
  return static_cast<double>(token_bytes * ranks) / summary_of(token_s).median;
}

double GenerationTimes::read_rate(int ranks) const {
  return static_cast<double>(read_bytes * ranks) / summary_of(read_s).median;
}

GenerationTimes measure_generation(const Model& model, const GenerationCase& setting) {
  GenerationTimes times;
  times.prompt_tokens = setting.prompt_tokens;
  times.batch = setting.batch;
  times.token_bytes = product_bytes(model) + cache_bytes(model, setting);
  std::vector<TokenIds> prompts;
  for (std::int64_t i = 0; i < setting.batch; ++i) {
    prompts.push_back(random_token_ids(setting.seed + static_cast<std::uint64_t>(i), 1,
                                       setting.prompt_tokens,
                                       model.plan().dimensions().vocab_size));
  }
  const std::unique_ptr<SequenceScorer> scorer =
      make_scorer(model, setting.prompt_tokens + setting.new_tokens, setting.scorer);

  const auto seconds = [&model](const std::function<void()>& work) {
    return slowest_seconds(model.context().world(), model.device(), work);
  };
  const PromptProducts products(model, setting);
  TokenChooser chooser({}, prompts);
  NextTokenLogits logits = scorer->start(prompts);  // warms up
  products.run();
  for (int i = 0; i < kPromptSamples; ++i) {
    times.prompt_products_s.push_back(seconds([&] { products.run(); }));
    times.prompt_s.push_back(seconds([&] { logits = scorer->start(prompts); }));
  }

  const MemoryRead memory(model.device(), model.context().world().size());
  times.read_bytes = memory.bytes();
  Backend& backend = backend_of(model.device());
  // Between tokens, so that whatever else the machine does hits both.
  const std::int64_t step = std::max<std::int64_t>(1, setting.new_tokens / kReadSamples);
  const std::int64_t reserved = backend.allocator().counters().reserved;
  for (std::int64_t token = 0; token < setting.new_tokens; ++token) {
    if (token % step == 0) times.read_s.push_back(seconds([&] { memory.run(); }));
    times.token_s.push_back(
        seconds([&] { logits = scorer->append(chooser.choose(logits.values, token)); }));
  }
  times.recorded = scorer->has_recorded();
  times.token_reserved_bytes = backend.allocator().counters().reserved - reserved;
  return times;
}

}  // namespace portolan
