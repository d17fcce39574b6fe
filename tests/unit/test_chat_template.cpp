// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "core/error.hpp"
#include "models/tokenizers/chat_template.hpp"
#include "tests/unit/tokenizer_testing.hpp"

namespace portolan {
namespace {

using nlohmann::json;
using testing::data_path;
using testing::read_file;
using testing::TemporaryFolder;
using testing::write_file;

std::string name_of(ChatTemplate::Family family) {
  switch (family) {
    case ChatTemplate::Family::llama2:
      return "llama2";
    case ChatTemplate::Family::llama3:
      return "llama3";
    case ChatTemplate::Family::llama31:
      return "llama31";
    case ChatTemplate::Family::mistral:
      return "mistral";
  }
  return "";
}

Tokenizer tokenizer_for(const std::string& program) {
  return load_tokenizer(data_path(program.starts_with("llama3") ? "tokenizers/llama3-bbpe"
                                                                : "tokenizers/llama2-spm"));
}

std::vector<ChatMessage> messages_of(const json& list) {
  std::vector<ChatMessage> messages;
  for (const json& each : list) messages.push_back({each.at("role"), each.at("content")});
  return messages;
}

TEST(ChatTemplates, WriteWhatTheirProgramsRender) {
  const json data = testing::tokenizer_data("chat_cases.json");
  ASSERT_GT(data.at("cases").size(), 30u);
  for (const json& each : data.at("cases")) {
    const std::string name = each.at("program");
    const json& program = data.at("programs").at(name);
    const ChatTemplate chat(program.at("program").get<std::string>(), name);
    EXPECT_EQ(name_of(chat.family()), program.at("family")) << name;
    const Tokenizer tokenizer = tokenizer_for(name);
    const auto messages = messages_of(each.at("messages"));
    EXPECT_EQ(chat.text(messages, tokenizer), each.at("text")) << name << each.at("messages");
    EXPECT_EQ(chat.ids(messages, tokenizer),
              tokenizer.encode(each.at("text").get<std::string>(), false));
  }
}

TEST(ChatTemplates, OfSentencePieceModelsEncodeWhatStandsBetweenSpecialTokens) {
  const Tokenizer pieces = load_tokenizer(data_path("tokenizers/llama2-spm/tokenizer.model"));
  const Tokenizer whole = load_tokenizer(data_path("tokenizers/llama2-spm/tokenizer.json"));
  const ChatTemplate chat("[INST] <<SYS>>", "c");
  const std::vector<ChatMessage> messages{
      {"system", "Be brief."}, {"user", "the"}, {"assistant", "and"}, {"user", "the</s>"}};
  const std::vector<TokenId> ids = chat.ids(messages, pieces);
  // What a user writes is text there, not a special token.
  EXPECT_EQ(std::ranges::count(ids, *pieces.special().eos), 1);
  EXPECT_EQ(std::ranges::count(ids, *pieces.special().bos), 2);
  const std::vector<ChatMessage> plain{{"user", "the"}, {"assistant", "and"}, {"user", "the"}};
  EXPECT_EQ(chat.ids(plain, pieces), chat.ids(plain, whole));
}

TEST(ChatTemplates, ThatAskForTheDateGetIt) {
  const Tokenizer tokenizer = tokenizer_for("llama3");
  const ChatTemplate chat("<|start_header_id|> Cutting Knowledge Date strftime_now", "c");
  const std::vector<ChatMessage> messages{{"user", "Hi"}};
  EXPECT_NE(chat.text(messages, tokenizer, "01 Feb 2030").find("Today Date: 01 Feb 2030\n\n"),
            std::string::npos);
  EXPECT_EQ(ChatTemplate::current_date().size(), 11u);
}

TEST(ChatTemplates, RefuseConversationsThatHaveNoPlaceInThem) {
  const Tokenizer tokenizer = tokenizer_for("mistral");
  const ChatTemplate llama2("[INST] <<SYS>>", "c");
  const ChatTemplate mistral("[INST] [/INST]", "c");
  using Messages = std::vector<ChatMessage>;
  for (const Messages& messages :
       {Messages{}, Messages{{"assistant", "x"}}, Messages{{"user", "x"}, {"user", "y"}},
        Messages{{"user", "x"}, {"system", "y"}}, Messages{{"tool", "x"}},
        Messages{{"system", "x"}}}) {
    EXPECT_THROW(static_cast<void>(llama2.text(messages, tokenizer)), UsageError);
    EXPECT_THROW(static_cast<void>(mistral.text(messages, tokenizer)), UsageError);
  }
  const Messages with_system{{"system", "x"}, {"user", "y"}};
  EXPECT_NO_THROW(static_cast<void>(llama2.text(with_system, tokenizer)));
  EXPECT_THROW(static_cast<void>(mistral.text(with_system, tokenizer)), UsageError);
  const ChatTemplate llama3("<|start_header_id|>", "c");
  const Messages tool{{"user", "x"}, {"tool", "y"}};
  EXPECT_THROW(static_cast<void>(llama3.text(tool, tokenizer_for("llama3"))), UsageError);
}

TEST(ChatTemplates, OfOtherFormatsAreRefused) {
  for (const char* program :
       {"", "<|im_start|>", "[SYSTEM_PROMPT] [INST]", "[INST] {% if role == 'system' %}",
        "<<SYS>> You are a helpful, respectful and honest assistant."}) {
    EXPECT_THROW(ChatTemplate(program, "c"), UnsupportedError) << program;
  }
}

TEST(ChatTemplates, AreFoundInTheModelsFolder) {
  const TemporaryFolder folder;
  const Tokenizer llama2 = tokenizer_for("llama2");
  const Tokenizer llama3 = tokenizer_for("llama3");
  const auto family = [&](const Tokenizer& tokenizer) {
    return name_of(load_chat_template(folder.path(), tokenizer).family());
  };
  EXPECT_EQ(family(llama3), "llama3");
  EXPECT_FALSE(testing::input_error([&] { family(llama2); }).empty());
  write_file(folder / "chat_template.jinja", "[INST] [/INST]");
  EXPECT_EQ(family(llama2), "mistral");
  write_file(folder / "tokenizer_config.json", R"({"chat_template": "[INST] <<SYS>>"})");
  EXPECT_EQ(family(llama2), "llama2");
  write_file(folder / "tokenizer_config.json",
             R"({"chat_template": [{"name": "tools", "template": "[INST] <<SYS>>"},
                                   {"name": "default", "template": "<|start_header_id|>"}]})");
  EXPECT_EQ(family(llama3), "llama3");
  write_file(folder / "tokenizer_config.json", R"({"chat_template": [{"name": "a"}]})");
  EXPECT_NE(testing::input_error([&] { family(llama3); }).find("chat_template"), std::string::npos);
}

}  // namespace
}  // namespace portolan
