// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <limits>

#include "core/error.hpp"
#include "models/generation/generator.hpp"
#include "models/generation/sampling.hpp"

namespace portolan {
namespace {

struct Hypothesis {
  TokenIds ids;
  double score = 0.0;  ///< sum of log-probabilities
};

struct Extension {
  std::size_t beam = 0;
  std::int32_t id = 0;
  double score = 0.0;
};

/// log(softmax(logits)), in place.
void to_log_probabilities(std::span<float> logits) {
  const double log_sum = log_sum_exp(logits);
  for (float& logit : logits) logit = static_cast<float>(logit - log_sum);
}

/// The `count` best continuations of all beams, best first.
std::vector<Extension> best_extensions(NextTokenLogits& logits,
                                       const std::vector<Hypothesis>& beams, const TokenIds& prompt,
                                       std::size_t count, double repetition_penalty) {
  std::vector<Extension> best;  // a heap, the last of them in front
  const auto better = [](const Extension& a, const Extension& b) {
    if (a.score != b.score) return a.score > b.score;
    return a.beam != b.beam ? a.beam < b.beam : a.id < b.id;
  };
  for (std::size_t beam = 0; beam < beams.size(); ++beam) {
    const std::span<float> row = logits.row(static_cast<std::int64_t>(beam));
    to_log_probabilities(row);
    TokenIds seen = prompt;
    seen.insert(seen.end(), beams[beam].ids.begin(), beams[beam].ids.end());
    penalize_repetition(row, seen, repetition_penalty);
    for (std::size_t id = 0; id < row.size(); ++id) {
      const Extension found{beam, static_cast<std::int32_t>(id), beams[beam].score + row[id]};
      if (best.size() == count) {
        if (!better(found, best.front())) continue;
        std::ranges::pop_heap(best, better);
        best.pop_back();
      }
      best.push_back(found);
      std::ranges::push_heap(best, better);
    }
  }
  std::ranges::sort_heap(best, better);
  return best;
}

/// The best hypotheses that ended.
class Ended {
 public:
  Ended(std::size_t most, double length_penalty) : most_(most), length_penalty_(length_penalty) {}

  [[nodiscard]] double normalized(const Hypothesis& hypothesis) const {
    return hypothesis.score / std::pow(static_cast<double>(hypothesis.ids.size()), length_penalty_);
  }

  void add(Hypothesis hypothesis, FinishReason reason) {
    const double score = normalized(hypothesis);
    const auto place = std::ranges::find_if(all_, [&](const Entry& e) { return e.score < score; });
    all_.insert(place, {std::move(hypothesis), reason, score});
    if (all_.size() > most_) all_.pop_back();
  }

  /// No hypothesis with this score could take a place.
  [[nodiscard]] bool excludes(double score) const {
    return all_.size() == most_ && all_.back().score >= score;
  }

  [[nodiscard]] GeneratedSequence best() const {
    const Entry& entry = all_.front();
    return {entry.hypothesis.ids, entry.reason, {}};
  }

 private:
  struct Entry {
    Hypothesis hypothesis;
    FinishReason reason;
    double score;
  };

  std::size_t most_;
  double length_penalty_;
  std::vector<Entry> all_;
};

}  // namespace

GeneratedSequence beam_search(SequenceScorer& scorer, const TokenIds& prompt,
                              const GenerationOptions& options) {
  require(options.beams > 0, "beams must be 1 or more, found {}", options.beams);
  require(std::isfinite(options.length_penalty), "the length penalty must be finite, found {}",
          options.length_penalty);
  if (options.max_new_tokens == 0) return {};
  const auto width = static_cast<std::size_t>(options.beams);
  Ended ended(width, options.length_penalty);
  std::vector<Hypothesis> beams(1);
  NextTokenLogits logits = scorer.start({&prompt, 1});
  for (std::int64_t step = 0;; ++step) {
    // As many more as there are end tokens: so many may end and still leave all beams open.
    const std::vector<Extension> extensions = best_extensions(
        logits, beams, prompt, width * (1 + std::max<std::size_t>(1, options.end_ids.size())),
        options.sampling.repetition_penalty);
    std::vector<Hypothesis> next;
    std::vector<std::int64_t> parents;
    TokenIds appended;
    for (std::size_t rank = 0; rank < extensions.size() && next.size() < width; ++rank) {
      const Extension& extension = extensions[rank];
      Hypothesis hypothesis = beams[extension.beam];
      hypothesis.ids.push_back(extension.id);
      hypothesis.score = extension.score;
      if (std::ranges::find(options.end_ids, extension.id) != options.end_ids.end()) {
        // Only what would have stayed open may end.
        if (rank < width) ended.add(std::move(hypothesis), FinishReason::end_token);
        continue;
      }
      next.push_back(std::move(hypothesis));
      parents.push_back(static_cast<std::int64_t>(extension.beam));
      appended.push_back(extension.id);
    }
    const bool limit = step + 1 == options.max_new_tokens;
    if (limit || next.empty() || ended.excludes(ended.normalized(next.front()))) {
      if (limit) {
        for (Hypothesis& open : next) ended.add(std::move(open), FinishReason::length);
      }
      return ended.best();
    }
    beams = std::move(next);
    scorer.select(parents);
    logits = scorer.append(appended);
  }
}

}  // namespace portolan
