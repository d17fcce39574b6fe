// SPDX-License-Identifier: Apache-2.0
#include "models/tokenizers/chat_template.hpp"

#include <algorithm>
#include <array>
#include <chrono>
#include <ctime>
#include <system_error>
#include <utility>

#include "core/error.hpp"
#include "core/json_file.hpp"
#include "core/mapped_file.hpp"
#include "core/printable.hpp"
#include "models/tokenizers/unicode_text.hpp"

namespace portolan {
namespace {

namespace fs = std::filesystem;

constexpr const char* kStartHeader = "<|start_header_id|>";
constexpr const char* kEndHeader = "<|end_header_id|>";
constexpr const char* kEndOfTurn = "<|eot_id|>";
constexpr const char* kPublishedDate = "26 Jul 2024";
constexpr std::size_t kLargestProgram = std::size_t{1} << 20;

bool has(std::string_view program, std::string_view text) {
  return program.find(text) != std::string_view::npos;
}

template <std::size_t Count>
bool has_any(std::string_view program, const std::array<std::string_view, Count>& texts) {
  return std::ranges::any_of(texts, [&](std::string_view text) { return has(program, text); });
}

[[noreturn]] void fail_unknown(const std::string& source, std::string_view what) {
  throw UnsupportedError(
      fmt::format("{}: {}: expected the chat format of LLaMA 2, LLaMA 3 or Mistral", source, what));
}

/// As Jinja's trim, which takes away what Python calls space: also the separators U+001C to U+001F.
std::string_view trim(std::string_view text) {
  const auto is_space = [](char32_t character) {
    return is_white_space(character) || (character >= 0x1C && character <= 0x1F);
  };
  while (!text.empty()) {
    std::size_t position = 0;
    if (!is_space(next_character(text, position))) break;
    text.remove_prefix(position);
  }
  while (!text.empty()) {
    std::size_t position = text.size();
    if (!is_space(previous_character(text, position))) break;
    text = text.substr(0, position);
  }
  return text;
}

std::string token_text(const Tokenizer& tokenizer, const std::optional<TokenId>& id,
                       std::string_view what) {
  require(id.has_value(), "this chat format needs a {} token, and the tokenizer has none", what);
  return std::string(tokenizer.token(*id).value_or(""));
}

/// A system message at the front, if there is one, and the turns behind it.
struct Conversation {
  const ChatMessage* system = nullptr;
  std::span<const ChatMessage> turns;
};

Conversation split_system(std::span<const ChatMessage> messages) {
  Conversation result{nullptr, messages};
  if (!messages.empty() && messages.front().role == "system") {
    result = {&messages.front(), messages.subspan(1)};
  }
  for (const ChatMessage& message : result.turns) {
    require(message.role == "user" || message.role == "assistant",
            "a chat has messages of user and assistant, behind at most one of system: found '{}'",
            printable(message.role));
  }
  return result;
}

void require_alternation(std::span<const ChatMessage> turns) {
  require(!turns.empty(), "a chat has at least one message of user");
  for (std::size_t i = 0; i < turns.size(); ++i) {
    require((turns[i].role == "user") == (i % 2 == 0),
            "messages of user and assistant take turns in this chat format, user first: message {} "
            "is of {}",
            i + 1, turns[i].role);
  }
}

/// `chat_template`: a program, or a list of named ones, of which the one called default counts.
std::optional<std::string> read_program(const fs::path& file) {
  std::error_code error;
  if (!fs::exists(file, error)) return std::nullopt;
  const nlohmann::json document = read_json_file(file);
  const JsonObject root(document, printable(file.native(), 4096));
  if (!root.has("chat_template")) return std::nullopt;
  if (!root.find("chat_template")->is_array()) return root.text("chat_template");
  for (const JsonObject& each : root.objects("chat_template")) {
    if (each.text("name") == "default") return each.text("template");
  }
  root.refuse("chat_template", "no template is called default");
}

}  // namespace

ChatTemplate::ChatTemplate(std::string_view program, const std::string& source) {
  if (has(program, kStartHeader)) {
    const bool states_dates = has(program, "Cutting Knowledge Date");
    family_ = states_dates ? Family::llama31 : Family::llama3;
    states_today_ = states_dates && has(program, "strftime_now");
  } else if (has(program, "<<SYS>>")) {
    if (has(program, "You are a helpful") || has(program, "DEFAULT_SYSTEM")) {
      fail_unknown(source, "the chat template has a system message of its own");
    }
    family_ = Family::llama2;
  } else if (has(program, "[INST]")) {
    family_ = Family::mistral;
    mistral_ = recognise_mistral(program, source);
  } else {
    fail_unknown(source, "the chat template is not known");
  }
}

ChatTemplate::MistralStyle ChatTemplate::recognise_mistral(std::string_view program,
                                                           const std::string& source) {
  if (has(program, "[SYSTEM_PROMPT]")) {
    fail_unknown(source, "the chat template marks system messages with [SYSTEM_PROMPT]");
  }
  MistralStyle style;
  style.open = has(program, "[INST] ") ? "[INST] " : "[INST]";
  style.close = has(program, " [/INST]") ? " [/INST]" : "[/INST]";
  using Texts = std::array<std::string_view, 2>;
  if (has_any(program, Texts{R"(" " + message["content"])", "' ' + message['content']"})) {
    style.before_answer = " ";
  }
  if (has_any(program, Texts{"eos_token + ' '", R"(eos_token + " ")"})) style.after_answer = " ";
  style.trims_answers = has_any(program, Texts{R"(message["content"]|trim)", "['content'] | trim"});
  if (has(program, "loop.last and system_message")) {
    style.system = MistralStyle::System::with_last;
  } else if (has_any(program, Texts{"loop.first and system_message",
                                    "loop.index0 == 0 and system_message"})) {
    style.system = MistralStyle::System::with_first;
  } else if (has_any(program, Texts{"== 'system'", R"(== "system")"})) {
    fail_unknown(source, "the chat template puts system messages in an unknown place");
  }
  return style;
}

std::vector<ChatTemplate::Part> ChatTemplate::llama2_parts(std::span<const ChatMessage> messages,
                                                           const Tokenizer& tokenizer) const {
  const auto [system, turns] = split_system(messages);
  require_alternation(turns);
  const std::string bos = token_text(tokenizer, tokenizer.special().bos, "beginning-of-text");
  const std::string eos = token_text(tokenizer, tokenizer.special().eos, "end-of-text");
  std::vector<Part> parts;
  for (std::size_t i = 0; i < turns.size(); ++i) {
    if (turns[i].role == "assistant") {
      parts.push_back({fmt::format(" {} ", trim(turns[i].content)), false});
      parts.push_back({eos, true});
      continue;
    }
    std::string content = turns[i].content;
    if (i == 0 && system != nullptr) {
      content = fmt::format("<<SYS>>\n{}\n<</SYS>>\n\n{}", system->content, content);
    }
    parts.push_back({bos, true});
    parts.push_back({fmt::format("[INST] {} [/INST]", trim(content)), false});
  }
  return parts;
}

std::vector<ChatTemplate::Part> ChatTemplate::llama3_parts(std::span<const ChatMessage> messages,
                                                           const Tokenizer& tokenizer,
                                                           const std::string& today) const {
  const auto [system, turns] = split_system(messages);
  std::vector<Part> parts{
      {token_text(tokenizer, tokenizer.special().bos, "beginning-of-text"), true}};
  const auto add_header = [&](const std::string& role) {
    parts.insert(parts.end(), {{kStartHeader, true}, {role, false}, {kEndHeader, true}});
  };
  const auto add_message = [&](const std::string& role, std::string_view content) {
    add_header(role);
    parts.push_back({fmt::format("\n\n{}", content), false});
    parts.push_back({kEndOfTurn, true});
  };
  const std::string_view instruction = system == nullptr ? "" : trim(system->content);
  if (family_ == Family::llama31) {
    add_message("system", fmt::format("Cutting Knowledge Date: December 2023\nToday Date: {}\n\n{}",
                                      states_today_ ? today : kPublishedDate, instruction));
  } else if (system != nullptr) {
    add_message("system", instruction);
  }
  for (const ChatMessage& message : turns) add_message(message.role, trim(message.content));
  add_header("assistant");
  parts.push_back({"\n\n", false});
  return parts;
}

std::vector<ChatTemplate::Part> ChatTemplate::mistral_parts(std::span<const ChatMessage> messages,
                                                            const Tokenizer& tokenizer) const {
  const auto [system, turns] = split_system(messages);
  require_alternation(turns);
  require(system == nullptr || mistral_.system != MistralStyle::System::refused,
          "this version of Mistral's chat format has no place for a system message");
  const bool with_last = mistral_.system == MistralStyle::System::with_last;
  const std::string eos = token_text(tokenizer, tokenizer.special().eos, "end-of-text");
  std::vector<Part> parts{
      {token_text(tokenizer, tokenizer.special().bos, "beginning-of-text"), true}};
  for (std::size_t i = 0; i < turns.size(); ++i) {
    if (turns[i].role == "assistant") {
      const std::string_view content =
          mistral_.trims_answers ? trim(turns[i].content) : turns[i].content;
      parts.push_back({fmt::format("{}{}", mistral_.before_answer, content), false});
      parts.push_back({eos, true});
      if (!mistral_.after_answer.empty())
        parts.push_back({std::string(mistral_.after_answer), false});
      continue;
    }
    const bool has_system = system != nullptr && i == (with_last ? turns.size() - 1 : 0);
    parts.push_back({fmt::format("{}{}{}{}{}", mistral_.open, has_system ? system->content : "",
                                 has_system ? "\n\n" : "", turns[i].content, mistral_.close),
                     false});
  }
  return parts;
}

std::vector<ChatTemplate::Part> ChatTemplate::parts(std::span<const ChatMessage> messages,
                                                    const Tokenizer& tokenizer,
                                                    const std::string& today) const {
  switch (family_) {
    case Family::llama2:
      return llama2_parts(messages, tokenizer);
    case Family::mistral:
      return mistral_parts(messages, tokenizer);
    default:
      return llama3_parts(messages, tokenizer, today);
  }
}

std::string ChatTemplate::text(std::span<const ChatMessage> messages, const Tokenizer& tokenizer,
                               const std::string& today) const {
  std::string result;
  for (const Part& part : parts(messages, tokenizer, today)) result += part.text;
  return result;
}

std::vector<TokenId> ChatTemplate::ids(std::span<const ChatMessage> messages,
                                       const Tokenizer& tokenizer, const std::string& today) const {
  if (tokenizer.finds_special_in_text()) {
    return tokenizer.encode(text(messages, tokenizer, today), false);
  }
  std::vector<TokenId> ids;
  for (const Part& part : parts(messages, tokenizer, today)) {
    if (!part.is_special) {
      const std::vector<TokenId> more = tokenizer.encode(part.text, false);
      ids.insert(ids.end(), more.begin(), more.end());
      continue;
    }
    const auto id = tokenizer.find(part.text);
    require(id.has_value(), "this chat format needs the token {}, which the tokenizer lacks",
            part.text);
    ids.push_back(*id);
  }
  return ids;
}

std::string ChatTemplate::current_date() {
  static constexpr std::array<const char*, 12> kMonths{"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                                       "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
  const std::time_t now = std::chrono::system_clock::to_time_t(std::chrono::system_clock::now());
  std::tm local{};
  ::localtime_r(&now, &local);
  return fmt::format("{:02d} {} {}", local.tm_mday, kMonths[static_cast<std::size_t>(local.tm_mon)],
                     1900 + local.tm_year);
}

ChatTemplate load_chat_template(const fs::path& folder, const Tokenizer& tokenizer) {
  const fs::path config = folder / "tokenizer_config.json";
  if (const auto program = read_program(config)) {
    return {*program, printable(config.native(), 4096)};
  }
  const fs::path file = folder / "chat_template.jinja";
  std::error_code error;
  if (fs::exists(file, error)) {
    return {read_text_file(file, kLargestProgram), printable(file.native(), 4096)};
  }
  const std::string source = printable(folder.native(), 4096);
  if (tokenizer.find(kStartHeader) && tokenizer.find(kEndHeader) && tokenizer.find(kEndOfTurn)) {
    return {kStartHeader, source};
  }
  throw InputError(fmt::format(
      "{}: expected a chat template in tokenizer_config.json or chat_template.jinja, found none",
      source));
}

}  // namespace portolan
