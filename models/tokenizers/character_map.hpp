// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace portolan {

/// The table by which SentencePiece normalizes text (`precompiled_charsmap`): pieces of text and
/// what takes their place. It is stored as the number of bytes of a tree, the tree as a double
/// array (Aoe, "An Efficient Digital Search Algorithm by Using a Double-Array Structure", 1989) of
/// 32-bit units as the library darts-clone packs them, and the replacements, each ended by a zero
/// byte.
class CharacterMap {
 public:
  /// Longer replacements are refused; what Unicode's forms need is within 40 bytes.
  static constexpr std::size_t kLongestReplacement = 1024;

  struct Match {
    std::size_t length;  ///< of what is replaced, at least 1
    std::string_view replacement;
  };

  /// Checks all that is ever looked up. Throws UsageError with what is wrong with `bytes`.
  explicit CharacterMap(std::string_view bytes);

  /// The shortest entry that `text` starts with.
  [[nodiscard]] std::optional<Match> shortest_prefix(std::string_view text) const;
  /// The longest one.
  [[nodiscard]] std::optional<Match> longest_prefix(std::string_view text) const;

 private:
  template <typename Found>
  void walk(std::string_view text, const Found& found) const;
  [[nodiscard]] std::string_view replacement(std::uint32_t value) const;
  void check_leaves() const;

  std::vector<std::uint32_t> units_;
  std::string replacements_;
};

}  // namespace portolan
