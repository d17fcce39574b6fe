// SPDX-License-Identifier: Apache-2.0
#include "models/tokenizers/sentencepiece_normalizer.hpp"

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>

#include "core/printable.hpp"
#include "models/tokenizers/vocabulary.hpp"

namespace portolan {
namespace {

class SentencePieceNormalizer : public NormalizerStep {
 public:
  explicit SentencePieceNormalizer(SentencePieceRules rules)
      : rules_(std::move(rules)), space_(rules_.mark_spaces ? kSpaceMarker : " ") {}

  void apply(std::string& text) const override {
    if (text.empty()) return;
    std::string result;
    result.reserve(text.size() + text.size() / 2);
    if (rules_.add_prefix) result += space_;
    bool after_space = rules_.remove_extra_spaces;
    for (std::string_view rest = text; !rest.empty();) {
      auto [length, part] = first_part(rest);
      rest.remove_prefix(length);
      while (after_space && part.starts_with(' ')) part.remove_prefix(1);
      if (part.empty()) continue;
      append(result, part);
      after_space = rules_.remove_extra_spaces && part.ends_with(' ');
    }
    while (rules_.remove_extra_spaces && result.ends_with(space_)) {
      result.resize(result.size() - space_.size());
    }
    text = std::move(result);
  }

 private:
  /// What the start of `text`, which is not empty, becomes.
  [[nodiscard]] CharacterMap::Match first_part(std::string_view text) const {
    std::size_t untouched = 0;
    rules_.untouched.for_each_prefix(
        text, [&](std::size_t length, TokenId /*id*/) { untouched = length; });
    if (untouched > 0) return {untouched, text.substr(0, untouched)};
    if (rules_.characters) {
      if (const auto match = rules_.characters->longest_prefix(text)) return *match;
    }
    const std::size_t length = plain_length(text);
    return {length, text.substr(0, length)};
  }

  /// Of the first character, or of as many as no rule can change.
  [[nodiscard]] std::size_t plain_length(std::string_view text) const {
    if (rules_.characters || !rules_.untouched.empty()) return utf8_character_length(text);
    return text.starts_with(' ') ? 1 : std::min(text.find(' '), text.size());
  }

  void append(std::string& result, std::string_view part) const {
    for (std::size_t space = part.find(' '); space != std::string_view::npos;
         space = part.find(' ')) {
      result.append(part.substr(0, space)).append(space_);
      part.remove_prefix(space + 1);
    }
    result.append(part);
  }

  SentencePieceRules rules_;
  std::string_view space_;
};

}  // namespace

std::unique_ptr<const NormalizerStep> make_sentencepiece_normalizer(SentencePieceRules rules) {
  return std::make_unique<SentencePieceNormalizer>(std::move(rules));
}

}  // namespace portolan
