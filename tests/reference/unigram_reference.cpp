// SPDX-License-Identifier: Apache-2.0
#include "tests/reference/unigram_reference.hpp"

#include <limits>

namespace portolan::reference {

std::vector<std::string> best_segmentation(const std::string& text,
                                           const std::map<std::string, double>& scores,
                                           double unknown) {
  // Of each start of the text, and the length of the last piece.
  std::vector<double> best(text.size() + 1, -std::numeric_limits<double>::infinity());
  std::vector<std::size_t> last(text.size() + 1, 0);
  best[0] = 0.0;
  for (std::size_t end = 1; end <= text.size(); ++end) {
    for (std::size_t length = end; length > 0; --length) {
      const auto found = scores.find(text.substr(end - length, length));
      if (found == scores.end() && length > 1) continue;
      const double score = best[end - length] + (found == scores.end() ? unknown : found->second);
      if (score > best[end]) {
        best[end] = score;
        last[end] = length;
      }
    }
  }
  std::vector<std::string> pieces;
  for (std::size_t end = text.size(); end > 0; end -= last[end]) {
    pieces.insert(pieces.begin(), text.substr(end - last[end], last[end]));
  }
  return pieces;
}

}  // namespace portolan::reference
