// SPDX-License-Identifier: Apache-2.0
#include "models/tokenizers/tokenizer_tiktoken.hpp"

#include <array>
#include <charconv>
#include <memory>
#include <utility>

#include "core/error.hpp"
#include "core/printable.hpp"
#include "models/tokenizers/base64.hpp"
#include "models/tokenizers/bpe_model.hpp"
#include "models/tokenizers/byte_level.hpp"

namespace portolan {
namespace {

/// Published vocabularies have at most 128. The work of a token grows with its square.
constexpr std::size_t kLongestToken = 256;

constexpr const char* kLlama3Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|)"
    R"(\s*[\r\n]+|\s+(?!\S)|\s+)";

constexpr std::size_t kSpecialTokens = 256;

struct Line {
  std::string bytes;
  TokenId rank;
};

std::optional<Line> parse_line(std::string_view line) {
  if (line.ends_with('\r')) line.remove_suffix(1);
  const std::size_t space = line.find(' ');
  if (space == std::string_view::npos) return std::nullopt;
  const std::string_view number = line.substr(space + 1);
  TokenId rank = -1;
  const auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), rank);
  if (error != std::errc() || end != number.data() + number.size() || rank < 0 ||
      rank >= kTokenIdLimit) {
    return std::nullopt;
  }
  auto bytes = decode_base64(line.substr(0, space));
  if (!bytes) return std::nullopt;
  return Line{std::move(*bytes), rank};
}

std::string byte_level(std::string_view bytes) {
  std::string text;
  append_byte_level(text, bytes);
  return text;
}

/// The tokens in the byte-level alphabet, which their bytes need not be text for.
Vocabulary read_tokens(std::string_view file, const std::string& source, std::vector<Line>& lines) {
  Vocabulary vocabulary;
  for (std::size_t number = 1; !file.empty(); ++number) {
    const std::size_t end = std::min(file.find('\n'), file.size());
    const std::string_view text = file.substr(0, end);
    file.remove_prefix(std::min(end + 1, file.size()));
    if (text.empty()) continue;
    auto line = parse_line(text);
    const auto fail = [&](std::string_view what) {
      throw InputError(fmt::format("{}: line {}: {}", source, number, what));
    };
    if (!line) {
      fail(fmt::format("expected a token in base64 and its rank, found '{}'", printable(text)));
    }
    if (line->bytes.size() > kLongestToken) {
      fail(fmt::format("a token has at most {} bytes, this one has {}", kLongestToken,
                       line->bytes.size()));
    }
    if (!vocabulary.add(byte_level(line->bytes), line->rank)) {
      fail("the token or its rank appears twice");
    }
    lines.push_back(std::move(*line));
  }
  for (unsigned byte = 0; byte < 256; ++byte) {
    const char character = static_cast<char>(byte);
    if (!vocabulary.find(byte_level({&character, 1}))) {
      throw InputError(
          fmt::format("{}: expected a token for each byte, found none for 0x{:02x}", source, byte));
    }
  }
  return vocabulary;
}

BpeMerges make_merges(const std::vector<Line>& lines, const Vocabulary& vocabulary) {
  BpeMerges merges(lines.size());
  for (const auto& [bytes, rank] : lines) {
    for (std::size_t cut = 1; cut < bytes.size(); ++cut) {
      const auto left = vocabulary.find(byte_level(std::string_view(bytes).substr(0, cut)));
      if (!left) continue;
      const auto right = vocabulary.find(byte_level(std::string_view(bytes).substr(cut)));
      if (right) merges.add(*left, *right, {static_cast<std::uint32_t>(rank), rank});
    }
  }
  return merges;
}

std::vector<AddedToken> make_special_tokens(TokenId first) {
  std::vector<std::string> names{"<|begin_of_text|>",
                                 "<|end_of_text|>",
                                 "<|reserved_special_token_0|>",
                                 "<|reserved_special_token_1|>",
                                 "<|finetune_right_pad_id|>",
                                 "<|reserved_special_token_2|>",
                                 "<|start_header_id|>",
                                 "<|end_header_id|>",
                                 "<|eom_id|>",
                                 "<|eot_id|>",
                                 "<|python_tag|>"};
  for (std::size_t reserved = 3; names.size() < kSpecialTokens; ++reserved) {
    names.push_back(fmt::format("<|reserved_special_token_{}|>", reserved));
  }
  std::vector<AddedToken> tokens;
  for (std::string& name : names) {
    AddedToken token;
    token.pattern = name;
    token.content = std::move(name);
    token.id = first + static_cast<TokenId>(tokens.size());
    token.special = true;
    tokens.push_back(std::move(token));
  }
  return tokens;
}

}  // namespace

bool looks_like_tiktoken(std::string_view bytes) {
  constexpr std::size_t kLongestLine = 2 * kLongestToken;
  const std::string_view start = bytes.substr(0, kLongestLine);
  return parse_line(start.substr(0, start.find('\n'))).has_value();
}

Tokenizer parse_tokenizer_tiktoken(std::string_view bytes, const std::string& source) {
  std::vector<Line> lines;
  Vocabulary vocabulary = read_tokens(bytes, source, lines);
  TokenId first_special = 0;
  for (const Line& line : lines) first_special = std::max(first_special, line.rank + 1);
  BpeMerges merges = make_merges(lines, vocabulary);
  PreTokenizer pre_tokenizer;
  pre_tokenizer.add(make_isolating_split(Pattern(Regex(kLlama3Pattern))));
  BpeOptions options;
  options.byte_level = true;
  options.ignore_merges = true;
  std::vector<AddedToken> special = make_special_tokens(first_special);
  const SpecialTokens ids{.bos = special[0].id,
                          .eos = special[1].id,
                          .unknown = std::nullopt,
                          .pad = special[4].id,
                          .mask = std::nullopt};
  PostProcessor post_processor;
  post_processor.prefix.push_back(special[0].id);
  return Tokenizer(
      {.format = TokenizerFormat::tiktoken,
       .added_tokens = std::move(special),
       .normalizer = {},
       .pre_tokenizer = std::move(pre_tokenizer),
       .model = std::make_unique<BpeModel>(std::move(vocabulary), std::move(merges), options),
       .post_processor = std::move(post_processor),
       .decoder = make_byte_level_decoder(),
       .special = ids});
}

}  // namespace portolan
