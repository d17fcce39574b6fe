// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "models/tokenizers/vocabulary.hpp"

namespace portolan {

/// Remembers the tokens of words, within a few MB: when it is full it forgets all and starts anew,
/// which costs less than keeping account of what was used last.
class WordCache {
 public:
  /// Longer words are not worth remembering.
  static constexpr std::size_t kLongestWord = 64;

  /// What is remembered of `word`; valid until the next call of insert.
  [[nodiscard]] std::optional<std::span<const TokenId>> find(std::string_view word) const;
  /// `word` must not be there.
  void insert(std::string_view word, std::span<const TokenId> tokens);

 private:
  struct Slot {
    std::uint64_t hash;
    std::uint32_t text;
    std::uint32_t tokens;
    std::uint16_t length;
    std::uint16_t count;  ///< of tokens; 0 for a free slot
  };

  std::vector<Slot> slots_;
  std::string texts_;
  std::vector<TokenId> tokens_;
  std::size_t words_ = 0;
};

}  // namespace portolan
