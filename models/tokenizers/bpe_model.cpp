// SPDX-License-Identifier: Apache-2.0
#include "models/tokenizers/bpe_model.hpp"

#include <algorithm>
#include <utility>

#include "core/printable.hpp"
#include "models/tokenizers/byte_level.hpp"

namespace portolan {
namespace {

constexpr TokenId kAbsent = -1;

/// Where in `text`, from `position` on, the next space marker starts that follows something else.
std::size_t find_word_start(std::string_view text, std::size_t position) {
  while (text.substr(position).starts_with(kSpaceMarker)) position += kSpaceMarker.size();
  return text.find(kSpaceMarker, position);
}

}  // namespace

BpeModel::BpeModel(Vocabulary vocabulary, BpeMerges merges, BpeOptions options)
    : vocabulary_(std::move(vocabulary)),
      merges_(std::move(merges)),
      options_(options),
      bytes_(vocabulary_) {
  for (std::size_t i = 0; i < ascii_.size(); ++i) {
    const char character = static_cast<char>(i);
    ascii_[i] = vocabulary_.find({&character, 1}).value_or(kAbsent);
  }
  splits_at_markers_ = !options_.byte_level && vocabulary_.find(kSpaceMarker).has_value() &&
                       merges_stay_within_words();
}

bool BpeModel::merges_stay_within_words() const {
  return merges_.all_of_results([&](TokenId result) {
    const std::string_view token = vocabulary_.token(result).value_or("");
    return find_word_start(token, 0) == std::string_view::npos;
  });
}

void BpeModel::encode(std::string_view word, Scratch& scratch, std::vector<TokenId>& out) const {
  if (!splits_at_markers_) return encode_cached(word, scratch, out);
  if (options_.ignore_merges && word.size() <= vocabulary_.longest()) {
    if (const auto token = vocabulary_.find(word)) return out.push_back(*token);
  }
  while (!word.empty()) {
    const std::size_t length = std::min(find_word_start(word, 0), word.size());
    encode_cached(word.substr(0, length), scratch, out);
    word.remove_prefix(length);
  }
}

void BpeModel::encode_cached(std::string_view word, Scratch& scratch,
                             std::vector<TokenId>& out) const {
  encode_remembered(word, scratch, out, [&] { encode_word(word, scratch); });
}

void BpeModel::encode_word(std::string_view word, Scratch& scratch) const {
  if (options_.byte_level) {
    scratch.byte_level_word.clear();
    append_byte_level(scratch.byte_level_word, word);
    word = scratch.byte_level_word;
  }
  scratch.symbols.clear();
  if (options_.ignore_merges && !splits_at_markers_ && word.size() <= vocabulary_.longest()) {
    if (const auto token = vocabulary_.find(word)) return scratch.symbols.push_back(*token);
  }
  append_symbols(word, scratch.symbols);
  merges_.apply(scratch.symbols, scratch.merges);
}

void BpeModel::append_symbols(std::string_view word, std::vector<TokenId>& symbols) const {
  bool after_unknown = false;
  while (!word.empty()) {
    const std::string_view character = word.substr(0, utf8_character_length(word));
    word.remove_prefix(character.size());
    if (const auto token = find_character(character)) {
      symbols.push_back(*token);
      after_unknown = false;
    } else if (options_.byte_fallback && bytes_.append(character, symbols)) {
      after_unknown = false;
    } else if (options_.unknown && !(after_unknown && options_.fuse_unknown)) {
      symbols.push_back(*options_.unknown);
      after_unknown = true;
    }
  }
}

std::optional<TokenId> BpeModel::find_character(std::string_view character) const {
  if (character.size() > 1) return vocabulary_.find(character);
  const TokenId token = ascii_[static_cast<std::uint8_t>(character.front())];
  if (token == kAbsent) return std::nullopt;
  return token;
}

}  // namespace portolan
