// SPDX-License-Identifier: Apache-2.0
#include "apps/generate.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "apps/collective_run.hpp"
#include "apps/json_text.hpp"
#include "apps/loaded_model.hpp"
#include "apps/progress.hpp"
#include "apps/token_batch.hpp"
#include "core/error.hpp"
#include "core/json_file.hpp"
#include "core/timer.hpp"
#include "models/config_fields.hpp"
#include "models/generation/text_stream.hpp"
#include "models/outline.hpp"
#include "models/tokenizers/chat_template.hpp"

namespace portolan {
namespace {

constexpr std::int64_t kMostNewTokens = 1'000'000;
constexpr std::int64_t kMostBeams = 256;

/// generation_config.json's end tokens, where it has any, else the config's, else the tokenizer's:
/// the config of Meta's format names none.
std::vector<std::int32_t> end_ids_of(const Checkpoint& checkpoint,
                                     const std::filesystem::path& folder,
                                     const std::optional<Tokenizer>& tokenizer) {
  CommonConfig common = checkpoint.config().common();
  const std::filesystem::path path = folder / "generation_config.json";
  if (std::filesystem::exists(path)) {
    const nlohmann::json document = read_json_file(path);
    read_end_tokens(JsonObject(document, path.string()), common);
  }
  if (common.eos_token_ids.empty() && tokenizer) return tokenizer->end_tokens();
  return {common.eos_token_ids.begin(), common.eos_token_ids.end()};
}

class GenerateRun {
 public:
  GenerateRun(GenerateRequest request, const Checkpoint& checkpoint)
      : request_(std::move(request)), checkpoint_(checkpoint) {
    check();
    if (request_.tokenizer) {
      tokenizer_ = load_tokenizer(*request_.tokenizer);
    } else if (find_tokenizer(request_.model)) {
      // The folder, not its tokenizer's file alone: others say what goes round texts.
      tokenizer_ = load_tokenizer(request_.model);
    }
    read_prompts();
    request_.options.end_ids = end_ids_of(checkpoint_, request_.model, tokenizer_);
  }

  void run(Runtime& runtime) {
    is_root_ = runtime.world().rank() == 0;
    Progress progress(request_.common.quiet || !is_root_);
    const LoadedModel loaded = load_model(checkpoint_, request_.common, use(), runtime);
    load_seconds_ = loaded.seconds;
    const std::unique_ptr<SequenceScorer> scorer =
        make_scorer(*loaded.model, longest(), request_.scorer);
    continue_prompts(*scorer, progress);
    recorded_ = scorer->has_recorded();
    progress.clear();
    if (is_root_) print();
    runtime.world().barrier();
  }

 private:
  void check() const {
    require(request_.ids.has_value() != !request_.prompts.empty(),
            "generate needs either --prompt or --ids");
    require(!request_.chat || !request_.prompts.empty(), "--chat needs --prompt");
    require(!request_.system || request_.chat, "--system needs --chat");
    require(outline_of(checkpoint_.config()).causal,
            "{}: only causal models generate; a model of {} fills masks", request_.model,
            checkpoint_.config().architecture);
    check_choices();
  }

  void check_choices() const {
    const GenerationOptions& options = request_.options;
    const TokenChoice& sampling = options.sampling;
    sampling.check();
    require(sampling.temperature > 0.0 ||
                (sampling.top_k == 0 && sampling.top_p == 1.0 && sampling.min_p == 0.0),
            "--top-k, --top-p and --min-p say which tokens to draw from: they need --temperature");
    require(options.max_new_tokens >= 0 && options.max_new_tokens <= kMostNewTokens,
            "--max-new-tokens: expected a number from 0 to {}, found {}", kMostNewTokens,
            options.max_new_tokens);
    require(options.beams >= 1 && options.beams <= kMostBeams,
            "--beams: expected a number from 1 to {}, found {}", kMostBeams, options.beams);
    require(options.beams == 1 || options.sampling.temperature == 0.0,
            "--beams searches for the likeliest text, --temperature draws at random: choose one");
    require(options.beams == 1 || !request_.stream,
            "--stream and --beams exclude each other: the "
            "best text is known at the end only");
    require(options.beams > 1 || options.length_penalty == 1.0,
            "--length-penalty is about --beams of more than 1");
    require(options.beams == 1 || !options.log_probabilities,
            "--log-probabilities and --beams exclude each other");
    require(!options.log_probabilities || request_.common.json,
            "--log-probabilities are a part of --json");
    const bool records = request_.scorer.record.value_or(false);
    require(!records || request_.scorer.use_cache,
            "--graph on records decoding over a key/value cache: it excludes --no-cache");
    require(!records || options.beams == 1,
            "--graph on and --beams exclude each other: beams change places with every token");
    require(!request_.stream || !request_.common.json,
            "--stream prints text as it comes, --json one document at the end: choose one");
  }

  void read_prompts() {
    if (request_.ids) {
      for (const TokenBatch::Row& row : parse_token_ids(*request_.ids).rows) {
        prompts_.push_back(row.ids);
      }
      require(tokenizer_ || request_.stops.empty(), "--stop looks for text: {} has no tokenizer",
              request_.model);
      require(tokenizer_ || !request_.stream, "--stream prints text: {} has no tokenizer",
              request_.model);
    } else {
      require(
          tokenizer_.has_value(),
          "--prompt: {} has no tokenizer.json or tokenizer.model; give --tokenizer FILE or --ids",
          request_.model);
      for (const std::string& prompt : request_.prompts) prompts_.push_back(encode(prompt));
    }
    const std::int64_t vocabulary = checkpoint_.config().common().vocab_size;
    for (const TokenIds& prompt : prompts_) {
      require(!prompt.empty(), "an empty prompt has no token to go on from");
      require_in_vocabulary(prompt, vocabulary, request_.ids ? "--ids" : "--prompt");
    }
    require(!request_.stream || prompts_.size() == 1, "--stream shows one sequence, found {}",
            prompts_.size());
    const std::int64_t tokens = longest();
    const std::int64_t positions =
        outline_of(checkpoint_.config()).longest_sequence.value_or(tokens);
    require(tokens <= positions, "{} tokens of the prompt and {} new ones exceed the {} of {}",
            longest_prompt(), new_tokens(), positions, request_.model);
  }

  [[nodiscard]] TokenIds encode(const std::string& prompt) const {
    if (!request_.chat) return tokenizer_->encode(prompt);
    std::vector<ChatMessage> messages;
    if (request_.system) messages.push_back({"system", *request_.system});
    messages.push_back({"user", prompt});
    return load_chat_template(request_.model, *tokenizer_).ids(messages, *tokenizer_);
  }

  [[nodiscard]] ModelUse use() const {
    const bool searches = request_.options.beams > 1;  // for one prompt at a time
    const std::int64_t sequences = searches ? request_.options.beams : std::ssize(prompts_);
    return {.tokens = longest_prompt(),
            .batch = searches ? 1 : sequences,
            .last_only = true,
            .new_tokens = new_tokens(),
            .cached = request_.scorer.use_cache ? sequences : 0};
  }

  [[nodiscard]] std::int64_t new_tokens() const { return request_.options.max_new_tokens; }
  [[nodiscard]] std::int64_t longest_prompt() const {
    std::size_t longest = 0;
    for (const TokenIds& prompt : prompts_) longest = std::max(longest, prompt.size());
    return static_cast<std::int64_t>(longest);
  }

  /// Of a sequence with all that is to come.
  [[nodiscard]] std::int64_t longest() const { return longest_prompt() + new_tokens(); }

  void continue_prompts(SequenceScorer& scorer, Progress& progress) {
    if (tokenizer_) {
      for (std::size_t i = 0; i < prompts_.size(); ++i) {
        streams_.emplace_back(*tokenizer_, request_.stops);
      }
    }
    GenerationOptions options = request_.options;
    options.on_token = [&](std::size_t sequence, std::int32_t id) {
      if (sequence == 0) {
        token_seconds_.push_back(since_token_.seconds());
        since_token_ = Stopwatch();
        if (!request_.stream) {
          progress.activity(fmt::format("token {} of {}", token_seconds_.size(), new_tokens()));
        }
      }
      return add_text(sequence, id);
    };
    const Stopwatch stopwatch;
    since_token_ = Stopwatch();
    if (options.beams > 1) {
      for (std::size_t i = 0; i < prompts_.size(); ++i) {
        GeneratedSequence best = beam_search(scorer, prompts_[i], options);
        // Stop strings end a text, not the search for it.
        const auto last =
            std::ranges::find_if(best.ids, [&](std::int32_t id) { return add_text(i, id); });
        if (last != best.ids.end()) best.ids.erase(last + 1, best.ids.end());
        sequences_.push_back(std::move(best));
      }
    } else {
      sequences_ = generate(scorer, prompts_, options);
    }
    for (std::size_t i = 0; i < streams_.size(); ++i) {
      show(streams_[i].finish());
      // A stop text may show only now, in characters that more tokens could have changed.
      if (streams_[i].stopped()) sequences_[i].finish_reason = FinishReason::stopped;
    }
    seconds_ = stopwatch.seconds();
  }

  bool add_text(std::size_t sequence, std::int32_t id) {
    if (streams_.empty()) return false;
    show(streams_[sequence].push(id));
    return streams_[sequence].stopped();
  }

  void show(const std::string& piece) const {
    if (!request_.stream || request_.common.json || !is_root_) return;
    fmt::print("{}", piece);
    std::fflush(stdout);
  }

  void print() const {
    if (request_.common.json) {
      fmt::print("{}", json_text(document()));
      return;
    }
    if (request_.stream) {
      fmt::print("\n");
      return;
    }
    for (std::size_t i = 0; i < sequences_.size(); ++i) {
      if (streams_.empty()) {
        fmt::print("{}\n", fmt::join(sequences_[i].ids, ","));
      } else {
        fmt::print("{}\n", streams_[i].text());
      }
    }
  }

  [[nodiscard]] nlohmann::ordered_json document() const {
    nlohmann::ordered_json sequences = nlohmann::ordered_json::array();
    std::int64_t generated = 0;
    for (std::size_t i = 0; i < sequences_.size(); ++i) {
      const GeneratedSequence& sequence = sequences_[i];
      generated += std::ssize(sequence.ids);
      nlohmann::ordered_json item{{"ids", sequence.ids}};
      if (!streams_.empty()) item["text"] = streams_[i].text();
      item["finish_reason"] = name_of(sequence.finish_reason);
      if (request_.options.log_probabilities)
        item["log_probabilities"] = sequence.log_probabilities;
      item["prompt_tokens"] = prompts_[i].size();
      sequences.push_back(std::move(item));
    }
    nlohmann::ordered_json timings{{"load_s", load_seconds_}, {"generate_s", seconds_}};
    if (!token_seconds_.empty()) {
      timings["first_token_s"] = token_seconds_.front();
      timings["following_tokens_s"] =
          std::vector<double>(token_seconds_.begin() + 1, token_seconds_.end());
    }
    timings["tokens_per_second"] = static_cast<double>(generated) / seconds_;
    return {{"sequences", std::move(sequences)},
            {"quantize", name_of(request_.common.quantization)},
            {"recorded", recorded_},
            {"timings", std::move(timings)}};
  }

  GenerateRequest request_;
  const Checkpoint& checkpoint_;
  std::optional<Tokenizer> tokenizer_;
  std::vector<TokenIds> prompts_;
  std::vector<TextStream> streams_;
  std::vector<GeneratedSequence> sequences_;
  std::vector<double> token_seconds_;  ///< of sequence 0, the prompt's first
  Stopwatch since_token_;
  bool is_root_ = false;
  bool recorded_ = false;
  double load_seconds_ = 0.0;
  double seconds_ = 0.0;
};

}  // namespace

void run_generate(GenerateRequest request, const Checkpoint& checkpoint) {
  const RuntimeOptions options = runtime_options(request.common);
  // Everything that a file or an option can get wrong is found before ranks start to work together.
  GenerateRun run(std::move(request), checkpoint);
  run_collectively(options, [&](Runtime& runtime) { run.run(runtime); });
}

}  // namespace portolan
