// SPDX-License-Identifier: Apache-2.0
#include "models/tokenizers/regex.hpp"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <array>
#include <limits>
#include <new>

#include "core/error.hpp"

namespace portolan {
namespace {

constexpr std::size_t kLongestPattern = 1 << 16;
/// Of one match: patterns that never come to an end are given up.
constexpr std::uint32_t kLeastSteps = 2'000'000;
/// Of one match in a long text, for each of its bytes: one after the other, the alternatives of a
/// pattern may each go through a run of equal characters.
constexpr std::size_t kStepsPerByte = 8;

struct Deleter {
  void operator()(pcre2_code* code) const { pcre2_code_free(code); }
  void operator()(pcre2_compile_context* context) const { pcre2_compile_context_free(context); }
  void operator()(pcre2_match_context* context) const { pcre2_match_context_free(context); }
  void operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }
};
template <typename Object>
using Owned = std::unique_ptr<Object, Deleter>;

PCRE2_SPTR bytes_of(std::string_view text) { return reinterpret_cast<PCRE2_SPTR>(text.data()); }

std::string reason_of(int error) {
  std::array<PCRE2_UCHAR, 160> reason{};
  pcre2_get_error_message(error, reason.data(), reason.size());
  return reinterpret_cast<const char*>(reason.data());
}

/// Rewrites a pattern from left to right.
class Translator {
 public:
  explicit Translator(std::string_view pattern) : pattern_(pattern) {}

  std::string run() {
    while (position_ < pattern_.size()) {
      if (peek() == '\\') {
        escape();
      } else if (in_class_) {
        class_character();
      } else {
        character();
      }
    }
    return std::move(result_);
  }

 private:
  [[nodiscard]] char peek(std::size_t ahead = 0) const {
    return position_ + ahead < pattern_.size() ? pattern_[position_ + ahead] : '\0';
  }
  [[nodiscard]] bool next_is(std::string_view text) const {
    return pattern_.substr(position_).starts_with(text);
  }
  void copy(std::size_t count) {
    result_ += pattern_.substr(position_, count);
    position_ += count;
  }
  [[noreturn]] void refuse(std::string_view what) const {
    throw UsageError(fmt::format("{} at offset {} is not supported", what, position_));
  }

  void escape() {
    switch (peek(1)) {
      case 's':
        return replace("\\p{White_Space}", "");
      case 'S':
        return replace("\\P{White_Space}", "");
      case 'd':
        return replace("\\p{Nd}", "");
      case 'D':
        return replace("\\P{Nd}", "");
      case 'w':
        return replace("\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}", "[");
      case 'W':
        if (in_class_) refuse("\\W in a character class");
        return replace("\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}", "[^");
      case 'h':
        return replace("0-9a-fA-F", "[");
      case 'H':
        refuse("\\H");
      default:
        copy(2);
    }
  }

  /// Puts `members` in place of an escape of two characters; outside a class they need one of their
  /// own if they are more than one.
  void replace(std::string_view members, std::string_view open) {
    if (in_class_ || open.empty()) {
      result_ += members;
    } else {
      result_.append(open).append(members) += ']';
    }
    position_ += 2;
  }

  void class_character() {
    if (next_is("[:")) {
      const std::size_t close = pattern_.find(":]", position_);
      if (close == std::string_view::npos) refuse("an unfinished [:name:]");
      return copy(close + 2 - position_);
    }
    if (peek() == '[') refuse("a character class in another");
    if (next_is("&&")) refuse("an intersection of character classes");
    if (peek() == ']' && position_ != class_start_) in_class_ = false;
    copy(1);
  }

  void character() {
    if (peek() == '[') {
      in_class_ = true;
      copy(peek(1) == '^' ? 2 : 1);
      class_start_ = position_;
    } else if (next_is("(?")) {
      group();
    } else if (peek() == '{') {
      interval();
    } else {
      copy(1);
    }
  }

  /// Ruby's option m, by which a dot matches ends of lines, is called s elsewhere.
  void group() {
    copy(2);
    const std::size_t end = pattern_.find_first_not_of("imx-", position_);
    if (end == std::string_view::npos || (pattern_[end] != ':' && pattern_[end] != ')')) return;
    for (; position_ < end; ++position_) result_ += peek() == 'm' ? 's' : peek();
  }

  void interval() {
    const std::size_t close = pattern_.find('}', position_);
    const bool is_interval =
        close != std::string_view::npos && close > position_ + 1 &&
        pattern_.substr(position_ + 1, close - position_ - 1).find_first_not_of("0123456789,") ==
            std::string_view::npos;
    if (!is_interval) return copy(1);
    // There x{2,3}+ repeats, here it would not give back.
    if (close + 1 < pattern_.size() && pattern_[close + 1] == '+') refuse("{...}+");
    copy(1);
    if (peek() == ',') result_ += '0';
    copy(close + 1 - position_);
  }

  std::string_view pattern_;
  std::size_t position_ = 0;
  bool in_class_ = false;
  std::size_t class_start_ = 0;
  std::string result_;
};

}  // namespace

std::string translate_pattern(std::string_view pattern) { return Translator(pattern).run(); }

struct Regex::Compiled {
  Owned<pcre2_code> code;
};

Regex::Regex(const std::string& pattern) {
  require(pattern.size() <= kLongestPattern, "a pattern has at most {} bytes, this one has {}",
          kLongestPattern, pattern.size());
  const std::string translated = translate_pattern(pattern);
  const Owned<pcre2_compile_context> context(pcre2_compile_context_create(nullptr));
  if (context == nullptr) throw std::bad_alloc();
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  int error = 0;
  PCRE2_SIZE offset = 0;
  auto compiled = std::make_unique<Compiled>();
  compiled->code.reset(
      pcre2_compile(bytes_of(translated), translated.size(),
                    PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &error,
                    &offset, context.get()));
  require(compiled->code != nullptr, "not a regular expression: {}", reason_of(error));
  // Where there is no compiler for this processor, PCRE2 interprets.
  static_cast<void>(pcre2_jit_compile(compiled->code.get(), PCRE2_JIT_COMPLETE));
  compiled_ = std::move(compiled);
}

Regex::~Regex() = default;
Regex::Regex(Regex&&) noexcept = default;
Regex& Regex::operator=(Regex&&) noexcept = default;

void Regex::for_each_match(std::string_view text,
                           const std::function<void(std::size_t, std::size_t)>& match) const {
  const Owned<pcre2_match_data> data(
      pcre2_match_data_create_from_pattern(compiled_->code.get(), nullptr));
  const Owned<pcre2_match_context> limits(pcre2_match_context_create(nullptr));
  if (data == nullptr || limits == nullptr) throw std::bad_alloc();
  constexpr std::size_t kMostSteps = std::numeric_limits<std::uint32_t>::max();
  pcre2_set_match_limit(limits.get(), static_cast<std::uint32_t>(std::clamp<std::size_t>(
                                          text.size() * kStepsPerByte, kLeastSteps, kMostSteps)));
  const auto find = [&](std::size_t from, std::uint32_t options) {
    return pcre2_match(compiled_->code.get(), bytes_of(text), text.size(), from, options,
                       data.get(), limits.get());
  };
  std::size_t position = 0;
  std::uint32_t options = PCRE2_NO_UTF_CHECK;
  while (position <= text.size()) {
    int result = find(position, options);
    // The interpreter keeps its state on the heap.
    if (result == PCRE2_ERROR_JIT_STACKLIMIT) result = find(position, options | PCRE2_NO_JIT);
    if (result == PCRE2_ERROR_NOMATCH) return;
    if (result < 0) {
      throw Error(
          fmt::format("a pattern of the tokenizer could not be matched: {}", reason_of(result)));
    }
    const PCRE2_SIZE* range = pcre2_get_ovector_pointer(data.get());
    // \K can put the beginning behind the end.
    const std::size_t begin = std::min(range[0], range[1]);
    match(begin, range[1]);
    position = range[1];
    // An empty match may not follow where a match ended, or it would be found for ever.
    options |= PCRE2_NOTEMPTY_ATSTART;
  }
}

}  // namespace portolan
