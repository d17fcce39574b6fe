// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <memory>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "apps/collective_run.hpp"
#include "apps/commands.hpp"
#include "apps/json_text.hpp"
#include "apps/loaded_model.hpp"
#include "apps/options.hpp"
#include "apps/progress.hpp"
#include "apps/token_batch.hpp"
#include "apps/training_data.hpp"
#include "core/error.hpp"
#include "core/mapped_file.hpp"
#include "core/timer.hpp"
#include "models/outline.hpp"
#include "models/tokenizers/tokenizer.hpp"
#include "training/cross_entropy.hpp"

namespace portolan {
namespace {

struct EvalRequest {
  CommonOptions common;
  std::string model;
  std::string data;
  std::int64_t sequence_length = 1024;
};

struct Evaluation {
  double loss = 0.0;  ///< summed over scored tokens
  std::int64_t scored = 0;
  double seconds = 0.0;

  [[nodiscard]] double mean_loss() const { return loss / static_cast<double>(scored); }
};

/// Windows of `length` tokens that overlap by one: every token but the first is scored once.
Evaluation evaluate(const Model& model, const std::vector<std::int32_t>& ids, std::int64_t length,
                    Progress& progress) {
  Evaluation evaluation;
  const Stopwatch stopwatch;
  for (std::int64_t begin = 0; begin + 1 < std::ssize(ids); begin += length - 1) {
    const std::int64_t end = std::min(begin + length, std::ssize(ids));
    const std::span window(ids.data() + begin, static_cast<std::size_t>(end - begin));
    const CrossEntropy result = vocabulary_parallel_cross_entropy(model, model.forward(window, 1),
                                                                  next_token_targets(window, 1));
    if (!std::isfinite(result.loss)) {  // the same on all ranks
      throw Error(
          fmt::format("the loss of tokens {} to {} is {}: the model's logits are no finite numbers",
                      begin + 1, end - 1, result.loss));
    }
    evaluation.loss += result.loss * static_cast<double>(result.scored);
    evaluation.scored += result.scored;
    progress.activity(fmt::format("{} of {} tokens, perplexity {:.3f}", end, ids.size(),
                                  std::exp(evaluation.mean_loss())));
  }
  progress.clear();
  evaluation.seconds = stopwatch.seconds();
  return evaluation;
}

void print(const Evaluation& evaluation, std::size_t bytes, std::int64_t window, const Model& model,
           const CommonOptions& options) {
  const double loss = evaluation.mean_loss();
  const double bits_per_byte =
      evaluation.loss / std::log(2.0) / static_cast<double>(std::max<std::size_t>(1, bytes));
  if (options.json) {
    const nlohmann::ordered_json document{
        {"dtype", name_of(model.dtype())},
        {"quantize", name_of(options.quantization)},
        {"weight_bytes_per_rank", model.weight_bytes()},
        {"perplexity", std::exp(loss)},
        {"loss", loss},
        {"bits_per_byte", bits_per_byte},
        {"scored_tokens", evaluation.scored},
        {"window", window},
        {"seconds", evaluation.seconds},
        {"tokens_per_second", static_cast<double>(evaluation.scored) / evaluation.seconds}};
    fmt::print("{}", json_text(document));
    return;
  }
  fmt::print(
      "perplexity {:.4f} (loss {:.6f}, {:.4f} bits per byte) over {} tokens in windows of {}\n",
      std::exp(loss), loss, bits_per_byte, evaluation.scored, window);
}

/// By the folder's tokenizer; without one, a model of 256 tokens reads bytes, as it was trained to.
std::vector<std::int32_t> tokens_of(const std::string& text, const std::string& folder,
                                    const ModelConfig& config) {
  constexpr std::int64_t kByteValues = 256;
  if (config.common().vocab_size == kByteValues && !find_tokenizer(folder)) {
    const auto bytes = std::as_bytes(std::span(text));
    std::vector<std::int32_t> ids;
    ids.reserve(bytes.size());
    for (const std::byte byte : bytes) ids.push_back(std::to_integer<std::int32_t>(byte));
    return ids;
  }
  return load_tokenizer(folder).encode(text);
}

void run(const EvalRequest& request) {
  const Checkpoint checkpoint(request.model);
  const ModelOutline outline = outline_of(checkpoint.config());
  require(outline.causal, "{}: perplexity is of causal models", request.model);
  require(outline.longest_sequence.value_or(2) >= 2,
          "{}: a model of one position predicts no token from another", request.model);
  require(request.sequence_length >= 2, "--seq-len: expected a number from 2 on, found {}",
          request.sequence_length);
  const std::string text = read_text_file(request.data, kLargestText);
  const std::vector<std::int32_t> ids = tokens_of(text, request.model, checkpoint.config());
  require(ids.size() > 1, "{}: expected a text of at least two tokens, found {}", request.data,
          ids.size());
  require_in_vocabulary(ids, checkpoint.config().common().vocab_size, request.data);
  const std::int64_t longest = std::min(request.sequence_length, std::ssize(ids));

  run_collectively(runtime_options(request.common), [&](Runtime& runtime) {
    const bool is_root = runtime.world().rank() == 0;
    const LoadedModel loaded = load_model(checkpoint, request.common, {.tokens = longest}, runtime);
    Progress progress(request.common.quiet || !is_root);
    const std::int64_t window = std::min(longest, loaded.model->maximum_length());
    const Evaluation evaluation = evaluate(*loaded.model, ids, window, progress);
    if (is_root) print(evaluation, text.size(), window, *loaded.model, request.common);
    runtime.world().barrier();
  });
}

}  // namespace

void add_eval_command(CLI::App& application) {
  CLI::App* command = application.add_subcommand("eval", "Perplexity of a causal model on a text");
  const auto request = std::make_shared<EvalRequest>();
  command->add_option("--model", request->model, "Folder of the model")
      ->required()
      ->type_name("DIR");
  command->add_option("--data", request->data, "Text")->required()->type_name("FILE");
  command
      ->add_option("--seq-len", request->sequence_length,
                   "Tokens of a window; each token but the first is scored once (default 1024)")
      ->type_name("S");
  add_inference_options(*command, request->common);
  command->footer(
      "Without a tokenizer, a model of 256 tokens reads bytes.\n"
      "Examples:\n"
      "  portolan eval --model DIR --data /usr/share/common-licenses/GPL-3\n"
      "  portolan eval --model DIR --data FILE --quantize int8");
  command->callback([request] { run(*request); });
}

}  // namespace portolan
