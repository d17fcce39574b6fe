// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "apps/options.hpp"
#include "models/checkpoint.hpp"
#include "models/generation/generator.hpp"

namespace portolan {

struct GenerateRequest {
  CommonOptions common;
  std::string model;                     ///< folder
  std::optional<std::string> tokenizer;  ///< instead of the folder's
  std::vector<std::string> prompts;      ///< --prompt, one sequence each
  std::optional<std::string> ids;        ///< --ids
  GenerationOptions options;
  std::vector<std::string> stops;  ///< --stop
  std::optional<std::string> system;
  bool stream = false;
  ScorerOptions scorer;
  bool chat = false;
};

/// Continues the prompts with the model of `checkpoint`, which is that of the folder, and prints
/// them. Collective.
void run_generate(GenerateRequest request, const Checkpoint& checkpoint);

}  // namespace portolan
