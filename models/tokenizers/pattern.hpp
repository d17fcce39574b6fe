// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <string_view>
#include <variant>

#include "core/json_file.hpp"
#include "models/tokenizers/regex.hpp"

namespace portolan {

/// What to look for in text: a string, which must not be empty, or a regular expression.
class Pattern {
 public:
  explicit Pattern(std::string text) : pattern_(std::move(text)) {}
  explicit Pattern(Regex regex) : pattern_(std::move(regex)) {}

  /// Calls `match(begin, end)` for the matches in `text`, from left to right.
  void for_each_match(std::string_view text,
                      const std::function<void(std::size_t, std::size_t)>& match) const;
  /// `text` with `content` in place of each match.
  [[nodiscard]] std::string replace(std::string_view text, std::string_view content) const;
  /// A string of one character: no match is lost where text is cut between characters.
  [[nodiscard]] bool is_one_character() const;

 private:
  std::variant<std::string, Regex> pattern_;
};

/// A member {"String": TEXT} or {"Regex": PATTERN} of `object`. Throws InputError.
[[nodiscard]] Pattern read_pattern(const JsonObject& object, std::string_view name);

}  // namespace portolan
