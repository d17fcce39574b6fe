// SPDX-License-Identifier: Apache-2.0
#include "models/tokenizers/word_piece_model.hpp"

#include <algorithm>
#include <utility>

#include "models/tokenizers/unicode_text.hpp"

namespace portolan {

WordPieceModel::WordPieceModel(Vocabulary vocabulary, WordPieceOptions options)
    : vocabulary_(std::move(vocabulary)), options_(std::move(options)) {}

void WordPieceModel::encode(std::string_view word, Scratch& scratch,
                            std::vector<TokenId>& out) const {
  encode_remembered(word, scratch, out, [&] { encode_word(word, scratch.symbols); });
}

void WordPieceModel::encode_word(std::string_view word, std::vector<TokenId>& symbols) const {
  symbols.clear();
  std::size_t characters = 0;
  for (std::size_t position = 0; position < word.size() && characters <= options_.longest_word;
       ++characters) {
    static_cast<void>(next_character(word, position));
  }
  bool known = characters <= options_.longest_word;
  std::string piece;
  for (std::size_t begin = 0; known && begin < word.size();) {
    const std::string_view prefix = begin == 0 ? "" : std::string_view(options_.continuing_prefix);
    std::size_t end = std::min(word.size(), begin + vocabulary_.longest());
    while (end < word.size() && (static_cast<unsigned char>(word[end]) & 0xC0U) == 0x80U) --end;
    known = false;
    while (!known && end > begin) {
      piece.assign(prefix).append(word.substr(begin, end - begin));
      if (const auto token = vocabulary_.find(piece)) {
        symbols.push_back(*token);
        begin = end;
        known = true;
      } else {
        static_cast<void>(previous_character(word, end));
      }
    }
  }
  if (!known) symbols.assign(1, options_.unknown);
}

}  // namespace portolan
