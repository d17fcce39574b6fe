// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

namespace portolan {

/// A regular expression in the dialect that tokenizer.json files are written in (Oniguruma's Ruby
/// syntax), run by PCRE2: \s, \w, \d and \h mean what they mean there, ^ and $ match at lines.
/// What the two read differently and is not translated is refused.
class Regex {
 public:
  /// Throws UsageError with the reason, which does not repeat the pattern, if it is not one.
  explicit Regex(const std::string& pattern);
  ~Regex();
  Regex(Regex&&) noexcept;
  Regex& operator=(Regex&&) noexcept;

  /// Calls `match(begin, end)` for the matches in `text`, which must be UTF-8, from left to right.
  /// Throws Error when one takes more steps than a sound pattern needs. Threads may share a Regex.
  void for_each_match(std::string_view text,
                      const std::function<void(std::size_t, std::size_t)>& match) const;

 private:
  struct Compiled;
  std::unique_ptr<const Compiled> compiled_;
};

/// `pattern` in PCRE2's syntax; see Regex. Throws UsageError.
[[nodiscard]] std::string translate_pattern(std::string_view pattern);

}  // namespace portolan
