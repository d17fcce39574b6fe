// SPDX-License-Identifier: Apache-2.0
#include "models/tokenizers/vocabulary.hpp"

#include <algorithm>
#include <utility>

namespace portolan {

void Vocabulary::reserve(std::size_t tokens) {
  ids_.reserve(tokens);
  tokens_.reserve(tokens);
}

bool Vocabulary::add(std::string token, TokenId id) {
  if (tokens_.contains(id)) return false;
  const auto [place, added] = ids_.emplace(std::move(token), id);
  if (!added) return false;
  tokens_.emplace(id, &place->first);
  longest_ = std::max(longest_, place->first.size());
  return true;
}

std::optional<TokenId> Vocabulary::find(std::string_view token) const {
  const auto found = ids_.find(token);
  if (found == ids_.end()) return std::nullopt;
  return found->second;
}

std::optional<std::string_view> Vocabulary::token(TokenId id) const {
  const auto found = tokens_.find(id);
  if (found == tokens_.end()) return std::nullopt;
  return *found->second;
}

}  // namespace portolan
