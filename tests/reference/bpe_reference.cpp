// SPDX-License-Identifier: Apache-2.0
#include "tests/reference/bpe_reference.hpp"

#include <limits>

namespace portolan::reference {
namespace {

constexpr std::size_t kNone = std::numeric_limits<std::size_t>::max();

/// `rank(left, right)` is kNone for neighbours that stay apart.
template <typename Rank>
Symbols merge(Symbols symbols, const Rank& rank) {
  while (true) {
    std::size_t best = kNone;
    std::size_t place = 0;
    for (std::size_t i = 0; i + 1 < symbols.size(); ++i) {
      const std::size_t candidate = rank(symbols[i], symbols[i + 1]);
      if (candidate < best) {
        best = candidate;
        place = i;
      }
    }
    if (best == kNone) return symbols;
    symbols[place] += symbols[place + 1];
    symbols.erase(symbols.begin() + static_cast<std::ptrdiff_t>(place) + 1);
  }
}

}  // namespace

Symbols merge_pairs(Symbols symbols,
                    const std::map<std::pair<std::string, std::string>, std::size_t>& ranks) {
  return merge(std::move(symbols), [&](const std::string& left, const std::string& right) {
    const auto found = ranks.find({left, right});
    return found == ranks.end() ? kNone : found->second;
  });
}

Symbols merge_tokens(Symbols symbols, const std::map<std::string, std::size_t>& ranks) {
  return merge(std::move(symbols), [&](const std::string& left, const std::string& right) {
    const auto found = ranks.find(left + right);
    return found == ranks.end() ? kNone : found->second;
  });
}

}  // namespace portolan::reference
