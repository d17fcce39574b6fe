// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "models/tokenizers/vocabulary.hpp"

namespace portolan {

/// Finds which of many tokens a text starts with, in time that does not depend on how many there
/// are: a tree of their bytes, where the children of a node lie side by side.
class PieceTrie {
 public:
  /// Longer tokens are refused by those who read files: each place of a text is compared with up to
  /// so many bytes.
  static constexpr std::size_t kLongestPiece = 1024;

  struct Piece {
    std::string_view text;
    TokenId id;
  };

  /// Finds nothing.
  PieceTrie() = default;
  /// Texts must differ, and live as long as the call. An empty one is never found.
  explicit PieceTrie(std::vector<Piece> pieces);

  [[nodiscard]] bool empty() const noexcept { return nodes_.size() <= 1; }

  /// Calls `found(length, id)` for each piece that `text` starts with, the shortest first.
  template <typename Found>
  void for_each_prefix(std::string_view text, const Found& found) const {
    if (text.empty()) return;
    std::uint32_t node = roots_[static_cast<std::uint8_t>(text.front())];
    for (std::size_t length = 1; node != kNone; ++length) {
      if (nodes_[node].id != kNoToken) found(length, nodes_[node].id);
      if (length == text.size()) return;
      node = child(nodes_[node], text[length]);
    }
  }

 private:
  static constexpr std::uint32_t kNone = 0;  ///< the root, which is nobody's child
  static constexpr TokenId kNoToken = -1;

  struct Node {
    std::uint32_t first_child = 0;
    std::uint16_t children = 0;
    TokenId id = kNoToken;
  };

  [[nodiscard]] std::uint32_t child(const Node& node, char byte) const {
    const std::string_view labels = std::string_view(labels_).substr(node.first_child);
    for (std::uint16_t i = 0; i < node.children; ++i) {
      if (labels[i] == byte) return node.first_child + i;
    }
    return kNone;
  }

  std::vector<Node> nodes_;
  std::string labels_;  ///< the byte that leads to each node
  /// Children of the root, which has the most, by their bytes.
  std::array<std::uint32_t, 256> roots_{};
};

}  // namespace portolan
