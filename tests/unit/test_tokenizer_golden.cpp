// SPDX-License-Identifier: Apache-2.0
// Ids and text must equal what Hugging Face's tokenizers and SentencePiece give, case by case.
#include <gtest/gtest.h>

#include "core/error.hpp"
#include "models/tokenizers/tokenizer_json.hpp"
#include "tests/unit/tokenizer_testing.hpp"

namespace portolan {
namespace {

using nlohmann::json;
using testing::component_cases;
using testing::data_path;
using testing::decode_streaming;
using testing::tokenizer_data;

using Ids = std::vector<TokenId>;

void expect_text(const Tokenizer& tokenizer, const Ids& ids, bool skip_special,
                 const std::string& expected) {
  EXPECT_EQ(tokenizer.decode(ids, skip_special), expected) << json(ids);
  EXPECT_EQ(decode_streaming(tokenizer, ids, skip_special), expected) << json(ids);
}

class GoldenTokenizer : public ::testing::TestWithParam<std::string> {
 protected:
  [[nodiscard]] static std::filesystem::path folder() {
    return data_path("tokenizers/" + GetParam());
  }
  [[nodiscard]] static json golden() {
    return tokenizer_data(GetParam() + "/tokenizer_cases.json");
  }
};

TEST_P(GoldenTokenizer, GivesTheIdsAndTextOfEveryCase) {
  const Tokenizer tokenizer = load_tokenizer(folder());
  const json data = golden();
  EXPECT_EQ(tokenizer.vocab_size(), data.at("vocab_size").get<std::size_t>());
  ASSERT_GT(data.at("cases").size(), 400u);
  for (const json& each : data.at("cases")) {
    const std::string text = each.at("text");
    EXPECT_EQ(tokenizer.encode(text, false), each.at("ids").get<Ids>()) << each.at("text");
    EXPECT_EQ(tokenizer.encode(text), each.at("ids_special").get<Ids>()) << each.at("text");
    expect_text(tokenizer, each.at("ids"), false, each.at("decoded"));
    expect_text(tokenizer, each.at("ids_special"), true, each.at("decoded_skip"));
  }
}

TEST_P(GoldenTokenizer, DecodesAnyIds) {
  const Tokenizer tokenizer = load_tokenizer(folder());
  const json data = golden();
  ASSERT_GT(data.at("decode_cases").size(), 70u);
  for (const json& each : data.at("decode_cases")) {
    expect_text(tokenizer, each.at("ids"), false, each.at("decoded"));
    expect_text(tokenizer, each.at("ids"), true, each.at("decoded_skip"));
  }
}

TEST_P(GoldenTokenizer, RefusesWhatIsNotUtf8AndEncodesItsReplacement) {
  const Tokenizer tokenizer = load_tokenizer(folder());
  const json data = golden();
  ASSERT_FALSE(data.at("invalid_utf8_cases").empty());
  for (const json& each : data.at("invalid_utf8_cases")) {
    const std::string hex = each.at("hex");
    std::string bytes;
    for (std::size_t i = 0; i < hex.size(); i += 2) {
      bytes += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
    }
    EXPECT_THROW(static_cast<void>(tokenizer.encode(bytes)), UsageError) << hex;
    EXPECT_EQ(tokenizer.encode(each.at("lossy_text").get<std::string>(), false),
              each.at("ids_if_lossy").get<Ids>())
        << hex;
  }
}

TEST_P(GoldenTokenizer, SentencePieceModelsGiveWhatSentencePieceGives) {
  const auto file = folder() / "tokenizer.model";
  const json data = golden();
  ASSERT_EQ(std::filesystem::exists(file), data.at("kind") == "spm");
  if (data.at("kind") != "spm") return;
  const Tokenizer tokenizer = load_tokenizer(file);
  EXPECT_EQ(tokenizer.format(), TokenizerFormat::sentencepiece);
  for (const json& each : data.at("cases")) {
    const auto ids = each.at("spm_ids").get<Ids>();
    EXPECT_EQ(tokenizer.encode(each.at("text").get<std::string>(), false), ids) << each.at("text");
    expect_text(tokenizer, ids, false, each.at("spm_decoded"));
  }
}

INSTANTIATE_TEST_SUITE_P(, GoldenTokenizer, ::testing::ValuesIn(testing::tokenizer_names()),
                         [](const auto& each) { return testing::identifier(each.param); });

TEST(TokenizerComponents, EachGivesWhatTheReferenceGives) {
  const auto components = component_cases();
  ASSERT_GT(components.size(), 50u);
  for (const testing::ComponentCase& component : components) {
    SCOPED_TRACE(component.name);
    const Tokenizer tokenizer = parse_tokenizer_json(component.document.dump(), component.name);
    for (const json& each : component.cases) {
      const std::string text = each[0];
      EXPECT_EQ(tokenizer.encode(text, false), each[1].get<Ids>()) << each[0];
      EXPECT_EQ(tokenizer.encode(text), each[2].get<Ids>()) << each[0];
      expect_text(tokenizer, each[1], false, each[3]);
      expect_text(tokenizer, each[2], true, each[4]);
    }
    for (const json& each : component.decode_cases) {
      expect_text(tokenizer, each[0], false, each[1]);
      expect_text(tokenizer, each[0], true, each[2]);
    }
  }
}

}  // namespace
}  // namespace portolan
