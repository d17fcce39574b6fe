// SPDX-License-Identifier: Apache-2.0
#include "models/tokenizers/word_cache.hpp"

#include <algorithm>
#include <functional>

namespace portolan {
namespace {

constexpr std::size_t kSlots = std::size_t{1} << 17;
constexpr std::size_t kMostWords = kSlots / 2;

std::uint64_t hash_of(std::string_view word) { return std::hash<std::string_view>{}(word); }

}  // namespace

std::optional<std::span<const TokenId>> WordCache::find(std::string_view word) const {
  if (words_ == 0) return std::nullopt;
  const std::uint64_t hash = hash_of(word);
  for (std::size_t i = hash % kSlots; slots_[i].count != 0; i = (i + 1) % kSlots) {
    const Slot& slot = slots_[i];
    if (slot.hash == hash && std::string_view(texts_).substr(slot.text, slot.length) == word) {
      return std::span(tokens_).subspan(slot.tokens, slot.count);
    }
  }
  return std::nullopt;
}

void WordCache::insert(std::string_view word, std::span<const TokenId> tokens) {
  if (tokens.empty() || word.size() > kLongestWord || tokens.size() > kLongestWord) return;
  if (words_ == kMostWords || slots_.empty()) {
    slots_.assign(kSlots, Slot{});
    texts_.clear();
    tokens_.clear();
    words_ = 0;
  }
  const std::uint64_t hash = hash_of(word);
  std::size_t i = hash % kSlots;
  while (slots_[i].count != 0) i = (i + 1) % kSlots;
  slots_[i] = {hash, static_cast<std::uint32_t>(texts_.size()),
               static_cast<std::uint32_t>(tokens_.size()), static_cast<std::uint16_t>(word.size()),
               static_cast<std::uint16_t>(tokens.size())};
  texts_ += word;
  tokens_.insert(tokens_.end(), tokens.begin(), tokens.end());
  ++words_;
}

}  // namespace portolan
