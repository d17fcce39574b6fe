// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "models/tokenizers/tokenizer.hpp"

namespace portolan {

/// Finds the first of several strings in a text that arrives in pieces: the one that ends first,
/// and of those the longest, so that it does not depend on the pieces.
class StopSearch {
 public:
  /// Empty strings are ignored.
  explicit StopSearch(std::vector<std::string> stops);

  /// Takes the next piece and returns what is certain not to begin a stop string; once one is
  /// found, what stands before it, and nothing from then on.
  [[nodiscard]] std::string push(std::string_view piece);
  /// The rest, if nothing was found.
  [[nodiscard]] std::string finish();
  [[nodiscard]] bool found() const noexcept { return found_; }

 private:
  std::vector<std::string> stops_;
  std::string held_;
  bool found_ = false;
};

/// The text of generated tokens as they come, special tokens skipped, up to a stop string. Every
/// piece is whole characters.
class TextStream {
 public:
  /// `tokenizer` must live as long.
  TextStream(const Tokenizer& tokenizer, std::vector<std::string> stops)
      : decoder_(tokenizer, true), search_(std::move(stops)) {}

  /// Returns the text that the token adds.
  [[nodiscard]] std::string push(std::int32_t id) { return add(search_.push(decoder_.push(id))); }
  [[nodiscard]] std::string finish();
  [[nodiscard]] bool stopped() const noexcept { return search_.found(); }
  /// All so far.
  [[nodiscard]] const std::string& text() const noexcept { return text_; }

 private:
  std::string add(std::string piece) {
    text_ += piece;
    return piece;
  }

  StreamingDecoder decoder_;
  StopSearch search_;
  std::string text_;
};

}  // namespace portolan
