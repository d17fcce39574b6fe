// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace portolan {

/// A token's number in its vocabulary; never negative.
using TokenId = std::int32_t;

/// U+2581, which stands for a space in SentencePiece vocabularies.
inline constexpr std::string_view kSpaceMarker = "\xE2\x96\x81";

/// Above every id. Tables grow with the number of tokens, not with their ids.
inline constexpr TokenId kTokenIdLimit = TokenId{1} << 27;

/// Tokens and their ids, both unique. Ids may leave gaps.
class Vocabulary {
 public:
  void reserve(std::size_t tokens);

  /// False, and nothing changes, if the token or the id is there already.
  bool add(std::string token, TokenId id);

  [[nodiscard]] std::size_t size() const noexcept { return ids_.size(); }
  [[nodiscard]] std::optional<TokenId> find(std::string_view token) const;
  /// Nothing for an id without a token. The text lives as long as the vocabulary.
  [[nodiscard]] std::optional<std::string_view> token(TokenId id) const;
  /// Bytes of the longest token.
  [[nodiscard]] std::size_t longest() const noexcept { return longest_; }

 private:
  struct Hash {
    using is_transparent = void;
    std::size_t operator()(std::string_view text) const noexcept {
      return std::hash<std::string_view>{}(text);
    }
  };
  // The second points to keys of the first, whose nodes stay where they are, also in a move.
  std::unordered_map<std::string, TokenId, Hash, std::equal_to<>> ids_;
  std::unordered_map<TokenId, const std::string*> tokens_;
  std::size_t longest_ = 0;
};

}  // namespace portolan
