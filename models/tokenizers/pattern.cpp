// SPDX-License-Identifier: Apache-2.0
#include "models/tokenizers/pattern.hpp"

#include <utility>

#include "core/error.hpp"
#include "core/printable.hpp"

namespace portolan {

void Pattern::for_each_match(std::string_view text,
                             const std::function<void(std::size_t, std::size_t)>& match) const {
  if (const auto* regex = std::get_if<Regex>(&pattern_)) return regex->for_each_match(text, match);
  const auto& wanted = std::get<std::string>(pattern_);
  for (std::size_t at = text.find(wanted); at != std::string_view::npos;
       at = text.find(wanted, at + wanted.size())) {
    match(at, at + wanted.size());
  }
}

std::string Pattern::replace(std::string_view text, std::string_view content) const {
  std::string result;
  std::size_t done = 0;
  for_each_match(text, [&](std::size_t begin, std::size_t end) {
    result.append(text, done, begin - done).append(content);
    done = end;
  });
  return result.append(text, done);
}

bool Pattern::is_one_character() const {
  const auto* text = std::get_if<std::string>(&pattern_);
  return text != nullptr && utf8_character_length(*text) == text->size();
}

Pattern read_pattern(const JsonObject& object, std::string_view name) {
  const JsonObject pattern = object.object(name);
  if (pattern.has("String")) {
    std::string text = pattern.text("String");
    if (text.empty()) pattern.fail("String", "at least one character");
    return Pattern(std::move(text));
  }
  if (!pattern.has("Regex")) object.fail(name, "an object with String or Regex");
  try {
    return Pattern(Regex(pattern.text("Regex")));
  } catch (const UsageError& error) {
    pattern.refuse("Regex", error.what());
  }
}

}  // namespace portolan
