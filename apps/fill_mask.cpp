// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "apps/collective_run.hpp"
#include "apps/commands.hpp"
#include "apps/json_text.hpp"
#include "apps/loaded_model.hpp"
#include "apps/options.hpp"
#include "apps/token_batch.hpp"
#include "core/error.hpp"
#include "models/generation/sampling.hpp"
#include "models/outline.hpp"
#include "models/tokenizers/tokenizer.hpp"

namespace portolan {
namespace {

struct FillMaskRequest {
  CommonOptions common;
  std::string model;
  std::string prompt;
  std::int64_t top = 5;
};

using Candidates = std::vector<TokenProbability>;

/// The likeliest tokens at each of the positions `masks` of one sequence.
std::vector<Candidates> fill(const Model& model, const std::vector<std::int32_t>& ids,
                             const std::vector<std::int64_t>& masks, std::int64_t top) {
  const Tensor logits = model.gather_logits(model.forward(ids, 1), masks, std::ssize(ids));
  const auto vocabulary = static_cast<std::size_t>(logits.dim(1));
  std::vector<Candidates> all;
  for (std::size_t mask = 0; mask < masks.size(); ++mask) {
    const std::span row(logits.data<float>() + mask * vocabulary, vocabulary);
    all.push_back(likeliest_tokens(row, static_cast<std::size_t>(top)));
  }
  return all;
}

void print(const std::vector<Candidates>& masks, const Tokenizer& tokenizer, bool json) {
  nlohmann::ordered_json document{{"masks", nlohmann::ordered_json::array()}};
  for (std::size_t mask = 0; mask < masks.size(); ++mask) {
    if (!json && masks.size() > 1) fmt::print("mask {}\n", mask + 1);
    nlohmann::ordered_json list = nlohmann::ordered_json::array();
    for (const TokenProbability& candidate : masks[mask]) {
      const std::string token = tokenizer.decode({&candidate.id, 1}, true);
      list.push_back(
          {{"id", candidate.id}, {"token", token}, {"probability", candidate.probability}});
      if (!json) fmt::print("{:>8.4f}  {:>6}  {}\n", candidate.probability, candidate.id, token);
    }
    document["masks"].push_back(std::move(list));
  }
  if (json) fmt::print("{}", json_text(document));
}

void run(const FillMaskRequest& request) {
  const Checkpoint checkpoint(request.model);
  const ModelConfig& config = checkpoint.config();
  require(!outline_of(config).causal, "{}: a causal model predicts the next token, not masked ones",
          request.model);
  const Tokenizer tokenizer = load_tokenizer(request.model);
  require(tokenizer.special().mask.has_value(), "{}: its tokenizer has no mask token",
          request.model);
  require(request.top >= 1, "--top: expected a number from 1 on, found {}", request.top);
  const std::vector<std::int32_t> ids = tokenizer.encode(request.prompt);
  require_in_vocabulary(ids, config.common().vocab_size, "--prompt");
  std::vector<std::int64_t> masks;
  for (std::int64_t i = 0; i < std::ssize(ids); ++i) {
    if (ids[static_cast<std::size_t>(i)] == *tokenizer.special().mask) masks.push_back(i);
  }
  require(!masks.empty(), "--prompt: expected the mask token {} in it",
          tokenizer.token(*tokenizer.special().mask).value_or(""));

  run_collectively(runtime_options(request.common), [&](Runtime& runtime) {
    const LoadedModel loaded =
        load_model(checkpoint, request.common, {.tokens = std::ssize(ids)}, runtime);
    const auto filled = fill(*loaded.model, ids, masks, request.top);
    if (runtime.world().rank() == 0) print(filled, tokenizer, request.common.json);
    runtime.world().barrier();
  });
}

}  // namespace

void add_fill_mask_command(CLI::App& application) {
  CLI::App* command =
      application.add_subcommand("fill-mask", "The likeliest tokens in place of each mask token");
  const auto request = std::make_shared<FillMaskRequest>();
  command->add_option("--model", request->model, "Folder of a masked language model")
      ->required()
      ->type_name("DIR");
  command->add_option("--prompt", request->prompt, "Text with mask tokens")
      ->required()
      ->type_name("TEXT");
  command->add_option("--top", request->top, "Tokens shown for each mask (default 5)")
      ->type_name("N");
  add_model_options(*command, request->common);
  command->footer(
      "Examples:\n  portolan fill-mask --model DIR --prompt \"The capital of France is <mask>.\"");
  command->callback([request] { run(*request); });
}

}  // namespace portolan
