// SPDX-License-Identifier: Apache-2.0
#include "models/tokenizers/decoder.hpp"

#include <utility>

#include "models/tokenizers/decoder_stages.hpp"
#include "models/tokenizers/token_fields.hpp"

namespace portolan {
namespace {

constexpr std::int64_t kMostStripped = 1 << 20;

void read_steps(const JsonObject& object, Decoder& out) {
  const std::string type = object.text("type");
  if (type == "Sequence") {
    for (const JsonObject& each : object.objects("decoders")) read_steps(each, out);
  } else if (type == "ByteLevel") {
    out.add(make_byte_level_stage);
  } else if (type == "ByteFallback") {
    out.add(make_byte_fallback_stage);
  } else if (type == "Fuse") {
    out.add(make_fusing_stage);
  } else if (type == "Strip") {
    const auto start = static_cast<std::size_t>(object.integer("start", 0, kMostStripped));
    const auto stop = static_cast<std::size_t>(object.integer("stop", 0, kMostStripped));
    out.add([character = read_character(object, "content"), start, stop] {
      return make_stripping_stage(character, start, stop);
    });
  } else if (type == "Replace") {
    auto pattern = std::make_shared<const Pattern>(read_pattern(object, "pattern"));
    out.add([pattern = std::move(pattern), content = object.text("content")] {
      return make_replacing_stage(pattern, content);
    });
  } else if (type == "Metaspace") {
    const bool drop_first = read_prepend_scheme(object) != PrependScheme::never;
    out.add([marker = read_character(object, "replacement"), drop_first] {
      return make_metaspace_stage(marker, drop_first);
    });
  } else if (type == "WordPiece") {
    const bool clean_up = object.boolean("cleanup", true);
    out.add([prefix = object.text("prefix"), clean_up] {
      return make_word_piece_stage(prefix, clean_up);
    });
  } else {
    object.fail(
        "type",
        "one of Sequence, ByteLevel, ByteFallback, Fuse, Strip, Replace, Metaspace, WordPiece");
  }
}

}  // namespace

std::vector<std::unique_ptr<DecoderStage>> Decoder::start() const {
  std::vector<std::unique_ptr<DecoderStage>> stages;
  stages.reserve(steps_.size());
  for (const Step& step : steps_) stages.push_back(step());
  return stages;
}

void DecoderRun::pass(std::size_t stage, const TokenPart& part, std::string& text) {
  if (stage == stages_.size()) {
    text += part.text;
    return;
  }
  stages_[stage]->push(part, [&, stage](const TokenPart& each) { pass(stage + 1, each, text); });
}

void DecoderRun::finish(std::string& text) {
  for (std::size_t stage = 0; stage < stages_.size(); ++stage) {
    stages_[stage]->finish([&, stage](const TokenPart& each) { pass(stage + 1, each, text); });
  }
}

Decoder read_decoder(const JsonObject& object) {
  Decoder result;
  read_steps(object, result);
  return result;
}

Decoder make_joining_decoder() {
  Decoder result;
  result.add(make_joining_stage);
  return result;
}

Decoder make_byte_level_decoder() {
  Decoder result;
  result.add(make_byte_level_stage);
  return result;
}

Decoder make_sentencepiece_decoder(LeadingMarkers leading) {
  Decoder result;
  result.add([leading] { return make_sentencepiece_stage(leading); });
  return result;
}

}  // namespace portolan
