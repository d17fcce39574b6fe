// SPDX-License-Identifier: Apache-2.0
#include "models/tokenizers/piece_trie.hpp"

#include <algorithm>
#include <deque>

namespace portolan {

PieceTrie::PieceTrie(std::vector<Piece> pieces) : nodes_(1), labels_(1, '\0') {
  std::ranges::sort(pieces, {}, &Piece::text);
  // Those that begin with what leads to a node are neighbours now. Level by level, so that children
  // get numbers side by side.
  struct Range {
    std::size_t begin;
    std::size_t end;
    std::size_t depth;
  };
  std::deque<Range> waiting{{0, pieces.size(), 0}};
  for (std::size_t node = 0; !waiting.empty(); ++node) {
    auto [begin, end, depth] = waiting.front();
    waiting.pop_front();
    if (begin < end && pieces[begin].text.size() == depth) nodes_[node].id = pieces[begin++].id;
    nodes_[node].first_child = static_cast<std::uint32_t>(nodes_.size());
    while (begin < end) {
      const char label = pieces[begin].text[depth];
      if (node == 0) {
        roots_[static_cast<std::uint8_t>(label)] = static_cast<std::uint32_t>(nodes_.size());
      }
      std::size_t next = begin + 1;
      while (next < end && pieces[next].text[depth] == label) ++next;
      waiting.push_back({begin, next, depth + 1});
      nodes_.emplace_back();
      labels_ += label;
      ++nodes_[node].children;
      begin = next;
    }
  }
}

}  // namespace portolan
