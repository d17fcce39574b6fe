// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "models/tokenizers/vocabulary.hpp"

namespace portolan {

/// A token that is found in text before anything else looks at it.
struct AddedToken {
  std::string content;
  std::string pattern;                 ///< what to look for; empty if it is not to be found
  std::optional<std::string> decoded;  ///< its text in decoding, where that is not `content`
  TokenId id = 0;
  bool single_word = false;  ///< not inside a word
  bool lstrip = false;       ///< takes white space before it along
  bool rstrip = false;       ///< takes white space after it along
  bool normalized = false;   ///< looked for in normalized text
  bool special = false;      ///< left out when decoding skips special tokens
};

/// Finds added tokens in text, from left to right and the longest at each place.
class AddedTokenMatcher {
 public:
  /// Longer ones are refused: each place of a text is compared with up to so many bytes.
  static constexpr std::size_t kLongestPattern = 4096;

  /// Of two tokens of the same pattern the later counts. Patterns must not be empty.
  void add(const AddedToken& token);

  /// Calls `part(text, id)` for the parts of `text` in order: those between tokens, which are never
  /// empty, without an id.
  void split(std::string_view text,
             const std::function<void(std::string_view, std::optional<TokenId>)>& part) const;

 private:
  struct Node {
    std::vector<std::pair<std::uint8_t, std::uint32_t>> children;
    std::optional<std::size_t> token;
  };
  struct Match {
    std::size_t length;
    const AddedToken* token;
  };
  [[nodiscard]] std::optional<Match> longest_at(std::string_view text, std::size_t position) const;

  std::vector<AddedToken> tokens_;
  std::vector<Node> nodes_ = std::vector<Node>(1);
  std::array<bool, 256> starts_{};
};

}  // namespace portolan
