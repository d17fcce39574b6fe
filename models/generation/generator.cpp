// SPDX-License-Identifier: Apache-2.0
#include "models/generation/generator.hpp"

#include <algorithm>

#include "core/error.hpp"
#include "models/generation/sampling.hpp"
#include "models/generation/token_chooser.hpp"

namespace portolan {

std::string_view name_of(FinishReason reason) {
  return reason == FinishReason::length ? "length" : "stop";
}

std::vector<GeneratedSequence> generate(SequenceScorer& scorer, std::span<const TokenIds> prompts,
                                        const GenerationOptions& options) {
  require(!prompts.empty(), "nothing to continue: no prompt");
  std::vector<GeneratedSequence> results(prompts.size());
  if (options.max_new_tokens == 0) return results;

  TokenChooser chooser(options.sampling, prompts);
  std::vector<std::size_t> open(prompts.size());  // the sequences of the scorer's rows
  for (std::size_t i = 0; i < open.size(); ++i) open[i] = i;

  NextTokenLogits logits = scorer.start(prompts);
  for (std::int64_t step = 0;; ++step) {
    const TokenIds chosen = chooser.choose(logits.values, step);
    TokenIds appended;
    std::vector<std::int64_t> rows;
    std::vector<std::size_t> still_open;
    for (std::size_t row = 0; row < open.size(); ++row) {
      const std::size_t sequence = open[row];
      GeneratedSequence& result = results[sequence];
      const std::int32_t id = chosen[row];
      result.ids.push_back(id);
      if (options.log_probabilities) {
        result.log_probabilities.push_back(
            log_probability(logits.row(static_cast<std::int64_t>(row)), id));
      }
      const bool stopped = options.on_token && options.on_token(sequence, id);
      if (std::ranges::find(options.end_ids, id) != options.end_ids.end()) {
        result.finish_reason = FinishReason::end_token;
      } else if (stopped) {
        result.finish_reason = FinishReason::stopped;
      } else {
        appended.push_back(id);
        rows.push_back(static_cast<std::int64_t>(row));
        still_open.push_back(sequence);
      }
    }
    if (still_open.empty() || step + 1 == options.max_new_tokens) return results;
    if (still_open.size() < open.size()) {
      scorer.select(rows);
      chooser.select(rows);
    }
    open = std::move(still_open);
    logits = scorer.append(appended);
  }
}

}  // namespace portolan
