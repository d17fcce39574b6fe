// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/tensor.hpp"
#include "core/token_choice.hpp"
#include "models/generation/scorer.hpp"

namespace portolan {

/// Chooses what follows each of several sequences, on the device that has their logits; only the
/// chosen tokens come to the host. The same on every rank.
class TokenChooser {
 public:
  /// Sequence i begins with prompts[i] and draws as number i.
  TokenChooser(const TokenChoice& choice, std::span<const TokenIds> prompts);

  /// One token for each row of logits [sequences, vocabulary] f32, in step 0, 1, ... of them all.
  /// Throws Error if a logit is not a number, or a row's largest is not finite.
  [[nodiscard]] TokenIds choose(const Tensor& logits, std::int64_t step);
  /// Goes on with these of the sequences.
  void select(std::span<const std::int64_t> rows);

 private:
  void move_to(const Tensor& logits);

  TokenChoice choice_;
  std::vector<TokenIds> prompts_;  ///< until their tokens are marked in `seen_`
  std::vector<std::int32_t> numbers_;
  Tensor sequences_;  ///< the same on the logits' device, [sequences] i32
  Tensor ids_;        ///< like `sequences_`
  Tensor seen_;       ///< [sequences, vocabulary] u8, where there is a repetition penalty
};

}  // namespace portolan
