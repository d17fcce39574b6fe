// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "models/tokenizers/tokenizer.hpp"

namespace portolan {

struct ChatMessage {
  std::string role;  ///< "system" (at most one, first), "user" or "assistant"
  std::string content;
};

/// How a conversation is written for a model of one family, up to where the model's answer begins.
/// Published templates are Jinja programs; here the families' formats are known, and a program is
/// only recognised by what it writes.
class ChatTemplate {
 public:
  /// LLaMA 2: [INST] and <<SYS>>. LLaMA 3: headers. LLaMA 3.1: headers, and a system message with
  /// dates before everything. Mistral: [INST] with details that changed from version to version.
  enum class Family { llama2, llama3, llama31, mistral };

  /// Recognises `program`. Throws UnsupportedError "SOURCE: ..." for other formats.
  ChatTemplate(std::string_view program, const std::string& source);

  [[nodiscard]] Family family() const noexcept { return family_; }

  /// The text of a conversation with its special tokens written out. Throws UsageError for roles
  /// that the format has no place for. `today` stands for the date in formats that state it.
  [[nodiscard]] std::string text(std::span<const ChatMessage> messages, const Tokenizer& tokenizer,
                                 const std::string& today = current_date()) const;

  /// The ids of that text. Where the tokenizer does not recognise special tokens in text, what
  /// stands between them is encoded by itself.
  [[nodiscard]] std::vector<TokenId> ids(std::span<const ChatMessage> messages,
                                         const Tokenizer& tokenizer,
                                         const std::string& today = current_date()) const;

  /// "26 Jul 2024", of today.
  [[nodiscard]] static std::string current_date();

 private:
  struct Part {
    std::string text;
    bool is_special;
  };
  /// What differs between the versions of Mistral's format.
  struct MistralStyle {
    enum class System { refused, with_first, with_last };
    std::string_view open;           ///< "[INST]", maybe with a space
    std::string_view close;          ///< "[/INST]", maybe with a space
    std::string_view before_answer;  ///< a space or nothing
    std::string_view after_answer;   ///< behind the end token: a space or nothing
    bool trims_answers = false;
    System system = System::refused;
  };

  static MistralStyle recognise_mistral(std::string_view program, const std::string& source);
  [[nodiscard]] std::vector<Part> parts(std::span<const ChatMessage> messages,
                                        const Tokenizer& tokenizer, const std::string& today) const;
  [[nodiscard]] std::vector<Part> llama2_parts(std::span<const ChatMessage> messages,
                                               const Tokenizer& tokenizer) const;
  [[nodiscard]] std::vector<Part> llama3_parts(std::span<const ChatMessage> messages,
                                               const Tokenizer& tokenizer,
                                               const std::string& today) const;
  [[nodiscard]] std::vector<Part> mistral_parts(std::span<const ChatMessage> messages,
                                                const Tokenizer& tokenizer) const;

  Family family_;
  MistralStyle mistral_;
  bool states_today_ = false;
};

/// The template of a model's folder: `chat_template` of its tokenizer_config.json or the file
/// chat_template.jinja, else LLaMA 3's if the tokenizer has its special tokens. Throws InputError
/// if there is none, and UnsupportedError for one that is not known.
[[nodiscard]] ChatTemplate load_chat_template(const std::filesystem::path& folder,
                                              const Tokenizer& tokenizer);

}  // namespace portolan
