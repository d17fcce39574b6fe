// SPDX-License-Identifier: Apache-2.0
#include "models/tokenizers/normalizer.hpp"

#include <algorithm>
#include <array>
#include <functional>
#include <utility>

#include "core/error.hpp"
#include "core/printable.hpp"
#include "models/tokenizers/base64.hpp"
#include "models/tokenizers/byte_level.hpp"
#include "models/tokenizers/character_map.hpp"
#include "models/tokenizers/graphemes.hpp"
#include "models/tokenizers/pattern.hpp"
#include "models/tokenizers/unicode_text.hpp"

namespace portolan {
namespace {

using Step = std::unique_ptr<const NormalizerStep>;

/// A step that is a function of the text.
class FunctionStep : public NormalizerStep {
 public:
  explicit FunctionStep(std::function<void(std::string&)> function)
      : function_(std::move(function)) {}
  void apply(std::string& text) const override { function_(text); }

 private:
  std::function<void(std::string&)> function_;
};

template <typename Function>
Step make_step(Function function) {
  return std::make_unique<FunctionStep>(std::move(function));
}

Step make_form(UnicodeForm form) {
  return make_step([form](std::string& text) { text = normalize_unicode(text, form); });
}

class ReplaceStep : public NormalizerStep {
 public:
  ReplaceStep(Pattern pattern, std::string content)
      : pattern_(std::move(pattern)), content_(std::move(content)) {}
  void apply(std::string& text) const override { text = pattern_.replace(text, content_); }

 private:
  Pattern pattern_;
  std::string content_;
};

void strip_white_space(std::string& text, bool left, bool right) {
  std::size_t begin = 0;
  std::size_t end = text.size();
  while (left && begin < end) {
    std::size_t next = begin;
    if (!is_white_space(next_character(text, next))) break;
    begin = next;
  }
  while (right && end > begin) {
    std::size_t previous = end;
    if (!is_white_space(previous_character(text, previous))) break;
    end = previous;
  }
  text = text.substr(begin, end - begin);
}

/// Control characters go, white space becomes U+0020.
void clean_text(std::string& text) {
  std::string result;
  result.reserve(text.size());
  for (std::size_t position = 0; position < text.size();) {
    const char32_t character = next_character(text, position);
    const bool is_line = character == '\t' || character == '\n' || character == '\r';
    if (character == 0xFFFD || (is_other(character) && !is_line)) continue;
    append_utf8(result, is_white_space(character) ? U' ' : character);
  }
  text = std::move(result);
}

/// The blocks of Chinese characters as BERT's own code lists them.
bool is_chinese(char32_t character) {
  static constexpr std::array<std::pair<char32_t, char32_t>, 8> kRanges{{{0x4E00, 0x9FFF},
                                                                         {0x3400, 0x4DBF},
                                                                         {0x20000, 0x2A6DF},
                                                                         {0x2A700, 0x2B73F},
                                                                         {0x2B740, 0x2B81F},
                                                                         {0x2B920, 0x2CEAF},
                                                                         {0xF900, 0xFAFF},
                                                                         {0x2F800, 0x2FA1F}}};
  return std::ranges::any_of(kRanges, [character](const auto& range) {
    return character >= range.first && character <= range.second;
  });
}

/// Makes each Chinese character a word.
void space_chinese(std::string& text) {
  std::string result;
  result.reserve(text.size());
  for (std::size_t position = 0; position < text.size();) {
    const char32_t character = next_character(text, position);
    const bool alone = is_chinese(character);
    if (alone) result += ' ';
    append_utf8(result, character);
    if (alone) result += ' ';
  }
  text = std::move(result);
}

/// The table `precompiled_charsmap`, in base64.
std::shared_ptr<const CharacterMap> read_character_map(const JsonObject& object) {
  constexpr const char* kName = "precompiled_charsmap";
  const auto bytes = decode_base64(object.text(kName));
  if (!bytes) object.refuse(kName, "expected a table in base64");
  try {
    return std::make_shared<const CharacterMap>(*bytes);
  } catch (const UsageError& error) {
    object.refuse(kName, fmt::format("not a sound table: {}", error.what()));
  }
}

/// As Hugging Face's library applies such a table: only short graphemes are looked up as they are,
/// and then the shortest entry that they start with counts for all of them.
void replace_graphemes(std::string& text, const CharacterMap& map) {
  constexpr std::size_t kLongestWhole = 5;
  std::string result;
  result.reserve(text.size());
  const auto replace = [&](std::string_view part) {
    const auto match = map.shortest_prefix(part);
    if (match) result += match->replacement;
    return match.has_value();
  };
  for_each_grapheme(text, [&](std::string_view grapheme) {
    if (grapheme.size() <= kLongestWhole && replace(grapheme)) return;
    for (std::size_t begin = 0; begin < grapheme.size();) {
      const std::size_t length = utf8_character_length(grapheme.substr(begin));
      const std::string_view character = grapheme.substr(begin, length);
      if (!replace(character)) result += character;
      begin += length;
    }
  });
  text = std::move(result);
}

void read_bert_steps(const JsonObject& object, std::vector<Step>& steps) {
  const bool lower = object.boolean("lowercase");
  if (object.boolean("clean_text")) steps.push_back(make_step(clean_text));
  if (object.boolean("handle_chinese_chars")) steps.push_back(make_step(space_chinese));
  if (object.boolean("strip_accents", lower)) {
    steps.push_back(make_step([](std::string& text) {
      text = strip_nonspacing_marks(normalize_unicode(text, UnicodeForm::nfd));
    }));
  }
  if (lower) steps.push_back(make_step([](std::string& text) { text = lowercase(text); }));
}

void read_steps(const JsonObject& object, std::vector<Step>& steps) {
  const std::string type = object.text("type");
  if (type == "Sequence") {
    for (const JsonObject& each : object.objects("normalizers")) read_steps(each, steps);
  } else if (type == "NFC") {
    steps.push_back(make_form(UnicodeForm::nfc));
  } else if (type == "NFD") {
    steps.push_back(make_form(UnicodeForm::nfd));
  } else if (type == "NFKC") {
    steps.push_back(make_form(UnicodeForm::nfkc));
  } else if (type == "NFKD") {
    steps.push_back(make_form(UnicodeForm::nfkd));
  } else if (type == "Lowercase") {
    steps.push_back(make_step([](std::string& text) { text = lowercase(text); }));
  } else if (type == "StripAccents") {
    steps.push_back(make_step([](std::string& text) { text = strip_marks(text); }));
  } else if (type == "Strip") {
    const bool left = object.boolean("strip_left");
    const bool right = object.boolean("strip_right");
    steps.push_back(
        make_step([left, right](std::string& text) { strip_white_space(text, left, right); }));
  } else if (type == "Prepend") {
    steps.push_back(make_step([prefix = object.text("prepend")](std::string& text) {
      if (!text.empty()) text.insert(0, prefix);
    }));
  } else if (type == "Replace") {
    steps.push_back(
        std::make_unique<ReplaceStep>(read_pattern(object, "pattern"), object.text("content")));
  } else if (type == "ByteLevel") {
    steps.push_back(make_step([](std::string& text) {
      std::string result;
      append_byte_level(result, text);
      text = std::move(result);
    }));
  } else if (type == "BertNormalizer") {
    read_bert_steps(object, steps);
  } else if (type == "Precompiled") {
    steps.push_back(make_step(
        [map = read_character_map(object)](std::string& text) { replace_graphemes(text, *map); }));
  } else {
    object.fail("type",
                "one of Sequence, NFC, NFD, NFKC, NFKD, Lowercase, Strip, StripAccents, Prepend, "
                "Replace, ByteLevel, BertNormalizer, Precompiled");
  }
}

}  // namespace

Normalizer read_normalizer(const JsonObject& object) {
  std::vector<Step> steps;
  read_steps(object, steps);
  return Normalizer(std::move(steps));
}

}  // namespace portolan
