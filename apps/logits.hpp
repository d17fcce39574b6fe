// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>

#include "apps/options.hpp"

namespace portolan {

struct LogitsRequest {
  CommonOptions common;
  std::string model;                  ///< folder
  std::optional<std::string> prompt;  ///< --prompt
  std::optional<std::string> ids;     ///< --ids
  std::optional<std::string> input;   ///< --input
  std::string out;                    ///< --out
  bool hidden_states = false;
};

/// Runs the model over a batch and writes `logits` [batch, seq, vocab] f32, 0 where a row has no
/// token; with hidden_states also row 0's residual stream. Collective.
void run_logits(const LogitsRequest& request);

}  // namespace portolan
