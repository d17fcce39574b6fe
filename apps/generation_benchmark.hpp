// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "models/generation/scorer.hpp"
#include "models/model.hpp"

namespace portolan {

/// What generating tokens one by one costs, and the limits beside it, measured in turns.
struct GenerationTimes {
  std::int64_t prompt_tokens = 0;
  std::int64_t batch = 0;
  bool recorded = false;                  ///< decoding, from its second token on
  std::vector<double> prompt_s;           ///< the prompt's forward, logits of its last token alone
  std::vector<double> prompt_products_s;  ///< its matrix products alone
  std::vector<double> token_s;            ///< each following token
  std::vector<double> read_s;             ///< of one pass over `read_bytes` of memory
  std::int64_t read_bytes = 0;            ///< of each rank
  /// That the allocator took from the system for all following tokens, this rank's.
  std::int64_t token_reserved_bytes = 0;
  std::int64_t token_bytes = 0;  ///< that a rank has to read per token: weights and cache

  /// Bytes per second of all ranks.
  [[nodiscard]] double decode_rate(int ranks) const;
  [[nodiscard]] double read_rate(int ranks) const;
};

struct GenerationCase {
  std::int64_t batch = 1;
  std::int64_t prompt_tokens = 128;
  std::int64_t new_tokens = 64;
  ScorerOptions scorer;
  std::uint64_t seed = 0;  ///< of the prompt
};

/// Greedy generation from random prompts; times are the slowest rank's. Collective.
[[nodiscard]] GenerationTimes measure_generation(const Model& model, const GenerationCase& setting);

}  // namespace portolan
