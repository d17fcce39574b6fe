// SPDX-License-Identifier: Apache-2.0
#include "models/tokenizers/added_tokens.hpp"

#include <algorithm>

#include "models/tokenizers/unicode_text.hpp"

namespace portolan {
namespace {

constexpr std::uint32_t kNoChild = 0;

template <typename Children>
std::uint32_t find_child(const Children& children, std::uint8_t byte) {
  for (const auto& [label, node] : children) {
    if (label == byte) return node;
  }
  return kNoChild;
}

bool stands_alone(std::string_view text, std::size_t begin, std::size_t end) {
  if (begin > 0 && is_word_character(previous_character(text, begin))) return false;
  return end == text.size() || !is_word_character(next_character(text, end));
}

std::size_t extend_left(std::string_view text, std::size_t begin, std::size_t limit) {
  while (begin > limit) {
    std::size_t before = begin;
    if (!is_white_space(previous_character(text, before))) break;
    begin = before;
  }
  return begin;
}

std::size_t extend_right(std::string_view text, std::size_t end) {
  while (end < text.size()) {
    std::size_t after = end;
    if (!is_white_space(next_character(text, after))) break;
    end = after;
  }
  return end;
}

}  // namespace

void AddedTokenMatcher::add(const AddedToken& token) {
  std::uint32_t node = 0;
  for (const char each : token.pattern) {
    const auto byte = static_cast<std::uint8_t>(each);
    std::uint32_t child = find_child(nodes_[node].children, byte);
    if (child == kNoChild) {
      child = static_cast<std::uint32_t>(nodes_.size());
      nodes_.emplace_back();
      nodes_[node].children.emplace_back(byte, child);
    }
    node = child;
  }
  starts_[static_cast<std::uint8_t>(token.pattern.front())] = true;
  nodes_[node].token = tokens_.size();
  tokens_.push_back(token);
}

std::optional<AddedTokenMatcher::Match> AddedTokenMatcher::longest_at(std::string_view text,
                                                                      std::size_t position) const {
  std::optional<Match> longest;
  std::uint32_t node = 0;
  for (std::size_t i = position; i < text.size(); ++i) {
    node = find_child(nodes_[node].children, static_cast<std::uint8_t>(text[i]));
    if (node == kNoChild) break;
    if (nodes_[node].token) longest = Match{i + 1 - position, &tokens_[*nodes_[node].token]};
  }
  return longest;
}

void AddedTokenMatcher::split(
    std::string_view text,
    const std::function<void(std::string_view, std::optional<TokenId>)>& part) const {
  std::size_t done = 0;
  std::size_t position = 0;
  while (!tokens_.empty() && position < text.size()) {
    if (!starts_[static_cast<std::uint8_t>(text[position])]) {
      ++position;
      continue;
    }
    const std::optional<Match> match = longest_at(text, position);
    if (!match) {
      ++position;
      continue;
    }
    std::size_t begin = position;
    std::size_t end = position + match->length;
    position = end;
    const AddedToken& token = *match->token;
    if (token.single_word && !stands_alone(text, begin, end)) continue;
    if (token.lstrip) begin = extend_left(text, begin, done);
    if (token.rstrip) end = extend_right(text, end);
    if (done < begin) part(text.substr(done, begin - done), std::nullopt);
    part(text.substr(begin, end - begin), token.id);
    done = end;
    position = end;
  }
  if (done < text.size()) part(text.substr(done), std::nullopt);
}

}  // namespace portolan
