// SPDX-License-Identifier: Apache-2.0
#include "models/tokenizers/graphemes.hpp"

#include <fmt/format.h>
#include <unicode/brkiter.h>
#include <unicode/uchar.h>
#include <unicode/utext.h>

#include <memory>

#include "core/error.hpp"
#include "models/tokenizers/unicode_text.hpp"

namespace portolan {
namespace {

void require_success(UErrorCode status) {
  if (U_FAILURE(status) != 0) {
    throw Error(fmt::format("ICU could not find the characters of text: {}", u_errorName(status)));
  }
}

/// Two neighbours that stand alone are never one grapheme, which goes for most of most texts.
bool stands_alone(char32_t character) {
  if (character < 0x7F) return character != '\r' && character != '\n';
  switch (u_getIntPropertyValue(static_cast<UChar32>(character), UCHAR_GRAPHEME_CLUSTER_BREAK)) {
    case U_GCB_OTHER:
    case U_GCB_CONTROL:
    case U_GCB_LV:
    case U_GCB_LVT:
      return true;
    default:
      return false;
  }
}

/// Where the first two neighbours from `begin` on meet that stand alone, or the end of `text`.
std::size_t find_certain_boundary(std::string_view text, std::size_t begin) {
  bool alone = false;
  for (std::size_t position = begin; position < text.size();) {
    const std::size_t start = position;
    const bool was_alone = alone;
    alone = stands_alone(next_character(text, position));
    if (was_alone && alone) return start;
  }
  return text.size();
}

/// ICU's rules, for what neighbours that stand alone do not settle.
class GraphemeRules {
 public:
  GraphemeRules() {
    UErrorCode status = U_ZERO_ERROR;
    iterator_.reset(icu::BreakIterator::createCharacterInstance(icu::Locale::getRoot(), status));
    require_success(status);
  }

  void split(std::string_view text, const std::function<void(std::string_view)>& sink) const {
    UErrorCode status = U_ZERO_ERROR;
    const icu::LocalUTextPointer view(
        utext_openUTF8(nullptr, text.data(), static_cast<std::int64_t>(text.size()), &status));
    require_success(status);
    iterator_->setText(view.getAlias(), status);
    require_success(status);
    std::int32_t begin = iterator_->first();
    for (std::int32_t end = iterator_->next(); end != icu::BreakIterator::DONE;
         end = iterator_->next()) {
      sink(text.substr(static_cast<std::size_t>(begin), static_cast<std::size_t>(end - begin)));
      begin = end;
    }
  }

 private:
  std::unique_ptr<icu::BreakIterator> iterator_;
};

}  // namespace

void for_each_grapheme(std::string_view text, const std::function<void(std::string_view)>& sink) {
  std::unique_ptr<const GraphemeRules> rules;
  for (std::size_t begin = 0; begin < text.size();) {
    std::size_t end = begin;
    const char32_t character = next_character(text, end);
    std::size_t following = end;
    const bool is_one = stands_alone(character) &&
                        (end == text.size() || stands_alone(next_character(text, following)));
    if (is_one) {
      sink(text.substr(begin, end - begin));
    } else {
      end = find_certain_boundary(text, begin);
      if (rules == nullptr) rules = std::make_unique<const GraphemeRules>();
      rules->split(text.substr(begin, end - begin), sink);
    }
    begin = end;
  }
}

}  // namespace portolan
