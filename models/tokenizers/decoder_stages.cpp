// SPDX-License-Identifier: Apache-2.0
#include "models/tokenizers/decoder_stages.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdint>
#include <optional>
#include <utility>

#include "models/tokenizers/byte_level.hpp"
#include "models/tokenizers/unicode_text.hpp"
#include "models/tokenizers/vocabulary.hpp"

namespace portolan {
namespace {

/// For steps that look at whole tokens.
class WholeTokenStage : public DecoderStage {
 public:
  void push(const TokenPart& part, const TokenPartSink& sink) final {
    if (part.begins && part.ends) return push_token(part.text, sink);
    if (part.begins) token_.clear();
    token_ += part.text;
    if (part.ends) push_token(token_, sink);
  }
  void finish(const TokenPartSink& /*sink*/) override {}

 protected:
  virtual void push_token(std::string_view token, const TokenPartSink& sink) = 0;

 private:
  std::string token_;
};

/// Makes one token of everything that a step says.
class JoinedOutput {
 public:
  void add(std::string_view text, const TokenPartSink& sink) {
    sink({text, std::exchange(begins_, false), false});
  }
  void finish(std::string_view text, const TokenPartSink& sink) {
    sink({text, std::exchange(begins_, false), true});
  }

 private:
  bool begins_ = true;
};

class JoiningStage : public DecoderStage {
 public:
  void push(const TokenPart& part, const TokenPartSink& sink) override {
    if (part.begins && !std::exchange(first_, false)) sink({" "});
    sink(part);
  }
  void finish(const TokenPartSink& /*sink*/) override {}

 private:
  bool first_ = true;
};

class ByteLevelStage : public WholeTokenStage {
 public:
  void push_token(std::string_view token, const TokenPartSink& sink) override {
    const std::size_t before = bytes_.size();
    for (std::size_t position = 0; position < token.size();) {
      const auto byte = byte_of_character(next_character(token, position));
      if (!byte) {
        bytes_.resize(before);
        bytes_ += token;
        break;
      }
      bytes_ += static_cast<char>(*byte);
    }
    std::size_t done = 0;
    std::string text;
    while (done < bytes_.size()) {
      const Utf8Part part = first_utf8_part(std::string_view(bytes_).substr(done));
      if (part.kind == Utf8Part::Kind::incomplete) break;
      if (part.kind == Utf8Part::Kind::character) {
        text.append(bytes_, done, part.length);
      } else {
        text += kReplacementCharacter;
      }
      done += part.length;
    }
    bytes_.erase(0, done);
    if (!text.empty()) output_.add(text, sink);
  }

  void finish(const TokenPartSink& sink) override {
    output_.finish(bytes_.empty() ? std::string_view() : kReplacementCharacter, sink);
  }

 private:
  std::string bytes_;  ///< the start of a character that is not there yet
  JoinedOutput output_;
};

/// The byte that a token <0xNN> stands for.
std::optional<char> byte_of_token(std::string_view token) {
  if (token.size() != 6 || !token.starts_with("<0x") || token.back() != '>') return std::nullopt;
  std::uint8_t byte = 0;
  const char* end = token.data() + 5;
  const auto [stop, error] = std::from_chars(token.data() + 3, end, byte, 16);
  if (error != std::errc() || stop != end) return std::nullopt;
  return static_cast<char>(byte);
}

class ByteFallbackStage : public WholeTokenStage {
 public:
  void push_token(std::string_view token, const TokenPartSink& sink) override {
    if (const auto byte = byte_of_token(token)) {
      bytes_ += *byte;
      return;
    }
    flush(sink);
    sink({token});
  }

  void finish(const TokenPartSink& sink) override { flush(sink); }

 private:
  /// Only the end of a run tells whether all of it is UTF-8, and if not, none of it is text.
  void flush(const TokenPartSink& sink) {
    if (bytes_.empty()) return;
    if (!find_invalid_utf8(bytes_)) {
      sink({bytes_});
    } else {
      for (std::size_t i = 0; i < bytes_.size(); ++i) sink({kReplacementCharacter});
    }
    bytes_.clear();
  }

  std::string bytes_;
};

class FusingStage : public DecoderStage {
 public:
  void push(const TokenPart& part, const TokenPartSink& sink) override {
    output_.add(part.text, sink);
  }
  void finish(const TokenPartSink& sink) override { output_.finish("", sink); }

 private:
  JoinedOutput output_;
};

class StrippingStage : public DecoderStage {
 public:
  StrippingStage(std::string character, std::size_t start, std::size_t stop)
      : character_(std::move(character)), start_(start), stop_(stop) {}

  void push(const TokenPart& part, const TokenPartSink& sink) override {
    if (part.begins) {
      left_ = start_;
      held_ = 0;
    }
    std::string_view text = part.text;
    while (left_ > 0 && text.starts_with(character_)) {
      text.remove_prefix(character_.size());
      --left_;
    }
    if (!text.empty()) left_ = 0;
    if (stop_ == 0) return sink({text, part.begins, part.ends});
    const std::string kept = hold_back(text);
    sink({kept, part.begins, part.ends});
  }

  void finish(const TokenPartSink& /*sink*/) override {}

 private:
  /// `text` after what was held before it, without what might turn out to be the token's end.
  std::string hold_back(std::string_view text) {
    std::string result;
    while (!text.empty()) {
      if (text.starts_with(character_)) {
        if (held_ == stop_) {
          result += character_;
        } else {
          ++held_;
        }
        text.remove_prefix(character_.size());
        continue;
      }
      for (; held_ > 0; --held_) result += character_;
      const std::size_t end = std::min(text.find(character_), text.size());
      result += text.substr(0, end);
      text.remove_prefix(end);
    }
    return result;
  }

  std::string character_;
  std::size_t start_;
  std::size_t stop_;
  std::size_t left_ = 0;
  std::size_t held_ = 0;
};

class ReplacingStage : public WholeTokenStage {
 public:
  ReplacingStage(std::shared_ptr<const Pattern> pattern, std::string content)
      : pattern_(std::move(pattern)), content_(std::move(content)) {}

  void push_token(std::string_view token, const TokenPartSink& sink) override {
    sink({pattern_->replace(token, content_)});
  }

 private:
  std::shared_ptr<const Pattern> pattern_;
  std::string content_;
};

/// The same for one character, which needs no whole tokens.
class CharacterReplacingStage : public DecoderStage {
 public:
  CharacterReplacingStage(std::shared_ptr<const Pattern> pattern, std::string content)
      : pattern_(std::move(pattern)), content_(std::move(content)) {}

  void push(const TokenPart& part, const TokenPartSink& sink) override {
    sink({pattern_->replace(part.text, content_), part.begins, part.ends});
  }
  void finish(const TokenPartSink& /*sink*/) override {}

 private:
  std::shared_ptr<const Pattern> pattern_;
  std::string content_;
};

class MetaspaceStage : public DecoderStage {
 public:
  MetaspaceStage(std::string marker, bool drop_first)
      : marker_(std::move(marker)), drop_(drop_first) {}

  void push(const TokenPart& part, const TokenPartSink& sink) override {
    sink({marker_.replace(part.text, drop_ ? "" : " "), part.begins, part.ends});
    if (part.ends) drop_ = false;
  }
  void finish(const TokenPartSink& /*sink*/) override {}

 private:
  Pattern marker_;
  bool drop_;
};

class SentencePieceStage : public WholeTokenStage {
 public:
  explicit SentencePieceStage(LeadingMarkers leading) : leading_(leading) {}

  void push_token(std::string_view token, const TokenPartSink& sink) override {
    std::string text;
    if (const auto byte = byte_of_token(token)) {
      bytes_ += *byte;
      append_characters(text, false);
    } else {
      append_characters(text, true);
      started_ |= !text.empty();
      if (!started_ && leading_ != LeadingMarkers::keep && token.starts_with(kSpaceMarker)) {
        token.remove_prefix(kSpaceMarker.size());
        started_ = leading_ == LeadingMarkers::drop_first;
      }
      text += marker_.replace(token, " ");
    }
    started_ |= !text.empty();
    sink({text});
  }

  void finish(const TokenPartSink& sink) override {
    std::string text;
    append_characters(text, true);
    sink({text});
  }

 private:
  /// Those that the bytes so far make; with `all` there are no more to come.
  void append_characters(std::string& text, bool all) {
    std::string_view rest = bytes_;
    while (!rest.empty()) {
      const Utf8Part part = first_utf8_part(rest);
      if (part.kind == Utf8Part::Kind::incomplete && !all) break;
      if (part.kind == Utf8Part::Kind::character) {
        text += rest.substr(0, part.length);
      } else {
        for (std::size_t i = 0; i < part.length; ++i) text += kReplacementCharacter;
      }
      rest.remove_prefix(part.length);
    }
    bytes_.erase(0, bytes_.size() - rest.size());
  }

  LeadingMarkers leading_;
  Pattern marker_{std::string(kSpaceMarker)};
  std::string bytes_;     ///< the start of a character that is not there yet
  bool started_ = false;  ///< what was dropped, or text, came before
};

/// What goes between words in English text, and what it becomes.
constexpr std::array<std::pair<std::string_view, std::string_view>, 11> kCleanUps{
    {{" .", "."},
     {" ?", "?"},
     {" !", "!"},
     {" ,", ","},
     {" ' ", "'"},
     {" n't", "n't"},
     {" 'm", "'m"},
     {" do not", " don't"},
     {" 's", "'s"},
     {" 've", "'ve"},
     {" 're", "'re"}}};

void replace_all(std::string& text, std::string_view from, std::string_view to) {
  for (std::size_t at = text.find(from); at != std::string::npos; at = text.find(from, at)) {
    text.replace(at, from.size(), to);
    at += to.size();
  }
}

class WordPieceStage : public WholeTokenStage {
 public:
  WordPieceStage(std::string prefix, bool clean_up)
      : prefix_(std::move(prefix)), clean_up_(clean_up) {}

  void push_token(std::string_view token, const TokenPartSink& sink) override {
    std::string text;
    if (std::exchange(first_, false)) {
      text = token;
    } else if (token.starts_with(prefix_)) {
      text = token.substr(prefix_.size());
    } else {
      text.assign(" ").append(token);
    }
    if (clean_up_) {
      for (const auto& [from, to] : kCleanUps) replace_all(text, from, to);
    }
    sink({text});
  }

 private:
  std::string prefix_;
  bool clean_up_;
  bool first_ = true;
};

}  // namespace

std::unique_ptr<DecoderStage> make_joining_stage() { return std::make_unique<JoiningStage>(); }
std::unique_ptr<DecoderStage> make_byte_level_stage() { return std::make_unique<ByteLevelStage>(); }
std::unique_ptr<DecoderStage> make_byte_fallback_stage() {
  return std::make_unique<ByteFallbackStage>();
}
std::unique_ptr<DecoderStage> make_fusing_stage() { return std::make_unique<FusingStage>(); }

std::unique_ptr<DecoderStage> make_stripping_stage(std::string character, std::size_t start,
                                                   std::size_t stop) {
  return std::make_unique<StrippingStage>(std::move(character), start, stop);
}

std::unique_ptr<DecoderStage> make_replacing_stage(std::shared_ptr<const Pattern> pattern,
                                                   std::string content) {
  if (pattern->is_one_character()) {
    return std::make_unique<CharacterReplacingStage>(std::move(pattern), std::move(content));
  }
  return std::make_unique<ReplacingStage>(std::move(pattern), std::move(content));
}

std::unique_ptr<DecoderStage> make_sentencepiece_stage(LeadingMarkers leading) {
  return std::make_unique<SentencePieceStage>(leading);
}

std::unique_ptr<DecoderStage> make_metaspace_stage(std::string marker, bool drop_first) {
  return std::make_unique<MetaspaceStage>(std::move(marker), drop_first);
}

std::unique_ptr<DecoderStage> make_word_piece_stage(std::string prefix, bool clean_up) {
  return std::make_unique<WordPieceStage>(std::move(prefix), clean_up);
}

}  // namespace portolan
