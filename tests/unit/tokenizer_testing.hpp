// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "models/tokenizers/tokenizer.hpp"
#include "tests/unit/file_testing.hpp"

/// What the tests of tokenizers share.
namespace portolan::testing {

/// The folders under tests/data/tokenizers.
[[nodiscard]] std::vector<std::string> tokenizer_names();

/// A JSON document under tests/data/tokenizers.
[[nodiscard]] nlohmann::json tokenizer_data(const std::string& file);

/// The text that a StreamingDecoder gives for `ids`. Fails the test if it ever gives half a
/// character.
[[nodiscard]] std::string decode_streaming(const Tokenizer& tokenizer, std::span<const TokenId> ids,
                                           bool skip_special);

/// One of component_cases.json: its tokenizer.json and what it must give.
struct ComponentCase {
  std::string name;
  nlohmann::json document;
  nlohmann::json cases;
  nlohmann::json decode_cases;
};
[[nodiscard]] std::vector<ComponentCase> component_cases();

}  // namespace portolan::testing
