// SPDX-License-Identifier: Apache-2.0
#include "tests/unit/tokenizer_testing.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>

#include "models/tokenizers/unicode_text.hpp"

namespace portolan::testing {

std::vector<std::string> tokenizer_names() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(data_path("tokenizers"))) {
    if (entry.is_directory()) names.push_back(entry.path().filename());
  }
  std::sort(names.begin(), names.end());
  return names;
}

nlohmann::json tokenizer_data(const std::string& file) {
  return nlohmann::json::parse(read_file(data_path("tokenizers/" + file)));
}

std::string decode_streaming(const Tokenizer& tokenizer, std::span<const TokenId> ids,
                             bool skip_special) {
  StreamingDecoder decoder(tokenizer, skip_special);
  std::string text;
  const auto add = [&](const std::string& piece) {
    EXPECT_FALSE(find_invalid_utf8(piece)) << "half a character in '" << piece << "'";
    text += piece;
  };
  for (const TokenId id : ids) add(decoder.push(id));
  add(decoder.finish());
  return text;
}

std::vector<ComponentCase> component_cases() {
  const nlohmann::json data = tokenizer_data("component_cases.json");
  std::vector<ComponentCase> result;
  for (const nlohmann::json& each : data.at("tokenizers")) {
    ComponentCase component{each.at("name"), each.at("tokenizer"), each.at("cases"),
                            each.at("decode_cases")};
    nlohmann::json& model = component.document["model"];
    model.update(data.at("tables").at(model.at("tables").get<std::string>()));
    model.erase("tables");
    result.push_back(std::move(component));
  }
  return result;
}

}  // namespace portolan::testing
