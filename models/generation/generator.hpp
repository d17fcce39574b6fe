// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string_view>
#include <vector>

#include "core/token_choice.hpp"
#include "models/generation/scorer.hpp"

namespace portolan {

/// Why a sequence ended: an end token, what the caller looks for, or the limit on new tokens.
enum class FinishReason { end_token, stopped, length };
/// "stop" (both of the former) or "length".
[[nodiscard]] std::string_view name_of(FinishReason reason);

struct GenerationOptions {
  std::int64_t max_new_tokens = 0;
  std::vector<std::int32_t> end_ids = {};
  TokenChoice sampling = {};
  bool log_probabilities = false;
  /// Called with each new token of a sequence as soon as it is known; true ends the sequence there.
  std::function<bool(std::size_t sequence, std::int32_t id)> on_token = {};
  /// Beam search: hypotheses kept (1: none), and the exponent of the length that scores are divided
  /// by.
  std::int64_t beams = 1;
  double length_penalty = 1.0;
};

struct GeneratedSequence {
  TokenIds ids;  ///< new tokens, the end token included
  FinishReason finish_reason = FinishReason::length;
  /// Of each token under the model's own distribution, if asked for.
  std::vector<double> log_probabilities;
};

/// Continues every prompt, all at once, greedily or by sampling. A sequence does not depend on the
/// others beside it but for rounding. Finished sequences leave the batch.
[[nodiscard]] std::vector<GeneratedSequence> generate(SequenceScorer& scorer,
                                                      std::span<const TokenIds> prompts,
                                                      const GenerationOptions& options);

/// The best of `options.beams` hypotheses for one prompt: of all that ended or reached the limit,
/// the one with the largest sum of log-probabilities over its length to the power of
/// length_penalty. Ends when no open hypothesis can still beat the ended ones at its present
/// length. on_token is not called, sampling does not apply.
[[nodiscard]] GeneratedSequence beam_search(SequenceScorer& scorer, const TokenIds& prompt,
                                            const GenerationOptions& options);

}  // namespace portolan
