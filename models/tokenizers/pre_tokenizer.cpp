// SPDX-License-Identifier: Apache-2.0
#include "models/tokenizers/pre_tokenizer.hpp"

#include <array>
#include <utility>

#include "models/tokenizers/byte_level.hpp"
#include "models/tokenizers/split_behavior.hpp"
#include "models/tokenizers/token_fields.hpp"
#include "models/tokenizers/unicode_text.hpp"

namespace portolan {
namespace {

using Step = std::unique_ptr<const PreTokenizerStep>;

constexpr const char* kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

/// Splits `piece` at what `find(text, match)` reports to match.
template <typename Find>
void split_piece(const TextPiece& piece, SplitBehavior behavior, bool invert, const Find& find,
                 const PieceSink& sink) {
  SplitAssembler assembler(behavior, invert, [&](std::size_t begin, std::size_t end) {
    sink({piece.text.substr(begin, end - begin), piece.at_start && begin == 0});
  });
  find(piece.text, [&](std::size_t begin, std::size_t end) { assembler.match(begin, end); });
  assembler.finish(piece.text.size());
}

class PatternSplit : public PreTokenizerStep {
 public:
  PatternSplit(Pattern pattern, SplitBehavior behavior, bool invert)
      : pattern_(std::move(pattern)), behavior_(behavior), invert_(invert) {}

  void split(const TextPiece& piece, const PieceSink& sink) const override {
    split_piece(
        piece, behavior_, invert_,
        [&](std::string_view text, const auto& match) { pattern_.for_each_match(text, match); },
        sink);
  }

 private:
  Pattern pattern_;
  SplitBehavior behavior_;
  bool invert_;
};

/// Each character of a kind is a match.
class CharacterSplit : public PreTokenizerStep {
 public:
  CharacterSplit(std::function<bool(char32_t)> is_match, SplitBehavior behavior)
      : is_match_(std::move(is_match)), behavior_(behavior) {}

  void split(const TextPiece& piece, const PieceSink& sink) const override {
    const auto find = [&](std::string_view text, const auto& match) {
      for (std::size_t position = 0; position < text.size();) {
        const std::size_t begin = position;
        if (is_match_(next_character(text, position))) match(begin, position);
      }
    };
    split_piece(piece, behavior_, false, find, sink);
  }

 private:
  std::function<bool(char32_t)> is_match_;
  SplitBehavior behavior_;
};

/// Writes bytes in the byte-level alphabet, for steps that come after it.
class ByteLevelText : public PreTokenizerStep {
 public:
  void split(const TextPiece& piece, const PieceSink& sink) const override {
    std::string text;
    append_byte_level(text, piece.text);
    sink({text, piece.at_start});
  }
};

class SpacePrefix : public PreTokenizerStep {
 public:
  void split(const TextPiece& piece, const PieceSink& sink) const override {
    if (piece.text.starts_with(' ')) return sink(piece);
    std::string text(1, ' ');
    text += piece.text;
    sink({text, piece.at_start});
  }
};

/// Writes spaces as `marker` and puts one before text.
class Metaspace : public PreTokenizerStep {
 public:
  Metaspace(std::string marker, PrependScheme scheme, bool split)
      : spaces_(" "), marker_(std::move(marker)), scheme_(scheme) {
    if (split) words_ = Pattern(marker_);
  }

  void split(const TextPiece& piece, const PieceSink& sink) const override {
    std::string text = spaces_.replace(piece.text, marker_);
    const bool prepend =
        scheme_ == PrependScheme::always || (scheme_ == PrependScheme::first && piece.at_start);
    if (prepend && !text.starts_with(marker_)) text.insert(0, marker_);
    const TextPiece marked{text, piece.at_start};
    if (!words_) return sink(marked);
    split_piece(
        marked, SplitBehavior::merged_with_next, false,
        [&](std::string_view whole, const auto& match) { words_->for_each_match(whole, match); },
        sink);
  }

 private:
  Pattern spaces_;
  std::string marker_;
  PrependScheme scheme_;
  std::optional<Pattern> words_;
};

SplitBehavior read_behavior(const JsonObject& object) {
  static constexpr std::array<std::pair<std::string_view, SplitBehavior>, 5> kNames{
      {{"Removed", SplitBehavior::removed},
       {"Isolated", SplitBehavior::isolated},
       {"MergedWithPrevious", SplitBehavior::merged_with_previous},
       {"MergedWithNext", SplitBehavior::merged_with_next},
       {"Contiguous", SplitBehavior::contiguous}}};
  const std::string wanted = object.text("behavior");
  for (const auto& [name, behavior] : kNames) {
    if (name == wanted) return behavior;
  }
  object.fail("behavior",
              "one of Removed, Isolated, MergedWithPrevious, MergedWithNext, Contiguous");
}

void read_steps(const JsonObject& object, PreTokenizer& out) {
  const std::string type = object.text("type");
  if (out.byte_level() && type != "Sequence") {
    // A step follows, so it cannot be left to the model.
    out.set_byte_level(false);
    out.add(std::make_unique<ByteLevelText>());
  }
  if (type == "Sequence") {
    for (const JsonObject& each : object.objects("pretokenizers")) read_steps(each, out);
  } else if (type == "ByteLevel") {
    if (object.boolean("add_prefix_space")) out.add(std::make_unique<SpacePrefix>());
    if (object.boolean("use_regex", true)) {
      out.add(make_isolating_split(Pattern(Regex(kGpt2Pattern))));
    }
    out.set_byte_level(true);
  } else if (type == "Split") {
    out.add(std::make_unique<PatternSplit>(read_pattern(object, "pattern"), read_behavior(object),
                                           object.boolean("invert", false)));
  } else if (type == "Digits") {
    out.add(std::make_unique<CharacterSplit>(is_numeric, object.boolean("individual_digits")
                                                             ? SplitBehavior::isolated
                                                             : SplitBehavior::contiguous));
  } else if (type == "Metaspace") {
    out.add(std::make_unique<Metaspace>(read_character(object, "replacement"),
                                        read_prepend_scheme(object),
                                        object.boolean("split", true)));
  } else if (type == "Whitespace") {
    out.add(std::make_unique<PatternSplit>(Pattern(Regex(R"(\w+|[^\w\s]+)")),
                                           SplitBehavior::removed, true));
  } else if (type == "WhitespaceSplit") {
    out.add(std::make_unique<CharacterSplit>(is_white_space, SplitBehavior::removed));
  } else if (type == "BertPreTokenizer") {
    out.add(std::make_unique<CharacterSplit>(is_white_space, SplitBehavior::removed));
    out.add(std::make_unique<CharacterSplit>(is_punctuation, SplitBehavior::isolated));
  } else if (type == "Punctuation") {
    out.add(std::make_unique<CharacterSplit>(
        is_punctuation, object.has("behavior") ? read_behavior(object) : SplitBehavior::isolated));
  } else if (type == "CharDelimiterSplit") {
    const std::string delimiter = read_character(object, "delimiter");
    out.add(std::make_unique<PatternSplit>(Pattern(delimiter), SplitBehavior::removed, false));
  } else {
    object.fail("type",
                "one of Sequence, ByteLevel, Split, Digits, Metaspace, Whitespace, "
                "WhitespaceSplit, Punctuation, CharDelimiterSplit, BertPreTokenizer");
  }
}

}  // namespace

void PreTokenizer::run(std::size_t step, const TextPiece& piece, const PieceSink& sink) const {
  if (step == steps_.size()) return sink(piece);
  steps_[step]->split(piece, [&, step](const TextPiece& part) { run(step + 1, part, sink); });
}

std::unique_ptr<const PreTokenizerStep> make_isolating_split(Pattern pattern) {
  return std::make_unique<PatternSplit>(std::move(pattern), SplitBehavior::isolated, false);
}

PreTokenizer read_pre_tokenizer(const JsonObject& object) {
  PreTokenizer result;
  read_steps(object, result);
  return result;
}

}  // namespace portolan
