// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/json_file.hpp"
#include "models/tokenizers/pattern.hpp"

namespace portolan {

/// A part of a text.
struct TextPiece {
  std::string_view text;
  bool at_start;  ///< nothing of the text lies before it
};

/// Takes pieces, which are never empty, in order; their text lives no longer than the call.
using PieceSink = std::function<void(const TextPiece&)>;

/// One step of splitting text into words.
class PreTokenizerStep {
 public:
  virtual ~PreTokenizerStep() = default;
  virtual void split(const TextPiece& piece, const PieceSink& sink) const = 0;
};

/// Splits text into the words that a model encodes one by one.
class PreTokenizer {
 public:
  PreTokenizer() = default;

  void add(std::unique_ptr<const PreTokenizerStep> step) { steps_.push_back(std::move(step)); }
  /// The words are bytes, to be written in the byte-level alphabet, which is left to the model so
  /// that it can remember words as they are.
  void set_byte_level(bool byte_level) { byte_level_ = byte_level; }
  [[nodiscard]] bool byte_level() const noexcept { return byte_level_; }

  void split(const TextPiece& piece, const PieceSink& sink) const { run(0, piece, sink); }

 private:
  void run(std::size_t step, const TextPiece& piece, const PieceSink& sink) const;

  std::vector<std::unique_ptr<const PreTokenizerStep>> steps_;
  bool byte_level_ = false;
};

/// What tokenizer.json says under `pre_tokenizer`. Throws InputError for what it does not know.
[[nodiscard]] PreTokenizer read_pre_tokenizer(const JsonObject& object);

/// Splits at the matches of `pattern`, each of which is a piece of its own.
[[nodiscard]] std::unique_ptr<const PreTokenizerStep> make_isolating_split(Pattern pattern);

}  // namespace portolan
