// SPDX-License-Identifier: Apache-2.0
#include "models/tokenizers/tokenizer_json.hpp"

#include <algorithm>
#include <limits>
#include <memory>
#include <utility>

#include "core/error.hpp"
#include "core/json_file.hpp"
#include "core/printable.hpp"
#include "models/tokenizers/bpe_model.hpp"
#include "models/tokenizers/token_fields.hpp"
#include "models/tokenizers/unigram_model.hpp"
#include "models/tokenizers/word_piece_model.hpp"

namespace portolan {
namespace {

using nlohmann::json;

constexpr std::int64_t kMostWordCharacters = std::int64_t{1} << 20;

Vocabulary read_vocabulary(const JsonObject& model) {
  const JsonObject tokens = model.object("vocab");
  Vocabulary vocabulary;
  vocabulary.reserve(tokens.members().size());
  for (const auto& [token, value] : tokens.members().items()) {
    const TokenId id = read_token_id(tokens, token);
    if (!vocabulary.add(token, id)) {
      tokens.refuse(token, fmt::format("has the id {}, which is that of '{}'", id,
                                       printable(*vocabulary.token(id))));
    }
  }
  if (vocabulary.size() == 0) model.fail("vocab", "at least one token");
  return vocabulary;
}

/// The two parts of "a b" or ["a", "b"].
std::pair<std::string_view, std::string_view> parts_of(const JsonObject& model,
                                                       std::string_view name, const json& merge) {
  if (merge.is_string()) {
    const std::string_view text = merge.get_ref<const std::string&>();
    const std::size_t space = text.find(' ');
    if (space != std::string_view::npos && text.find(' ', space + 1) == std::string_view::npos) {
      return {text.substr(0, space), text.substr(space + 1)};
    }
  } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() &&
             merge[1].is_string()) {
    return {merge[0].get_ref<const std::string&>(), merge[1].get_ref<const std::string&>()};
  }
  model.refuse(name, fmt::format("expected two tokens, found {}", describe(merge)));
}

BpeMerges read_merges(const JsonObject& model, const Vocabulary& vocabulary) {
  const json* list = model.find("merges");
  if (list == nullptr || !list->is_array()) model.fail("merges", "a list");
  BpeMerges merges(list->size());
  std::uint32_t rank = 0;
  for (const json& merge : *list) {
    // The first line of files that such lists were once made from.
    if (merge.is_string() && merge.get_ref<const std::string&>().starts_with("#version")) continue;
    const std::string name = fmt::format("merges[{}]", rank);
    const auto [left, right] = parts_of(model, name, merge);
    const auto id_of = [&](std::string_view token) {
      if (const auto id = vocabulary.find(token)) return *id;
      model.refuse(name, fmt::format("'{}' is not in vocab", printable(token)));
    };
    const std::string joined = std::string(left).append(right);
    merges.add(id_of(left), id_of(right), {rank++, id_of(joined)});
  }
  return merges;
}

/// Fields that change what merges mean and that no model of ours uses.
void refuse_unless_empty(const JsonObject& model, std::string_view name) {
  if (model.has(name) && !model.text(name).empty()) model.fail(name, "null or \"\"");
}

std::unique_ptr<const WordEncoder> read_bpe(const JsonObject& model, bool byte_level) {
  if (model.has("dropout") && model.number("dropout", 0.0, 1.0) != 0.0) {
    model.fail("dropout", "null or 0");
  }
  refuse_unless_empty(model, "continuing_subword_prefix");
  refuse_unless_empty(model, "end_of_word_suffix");
  Vocabulary vocabulary = read_vocabulary(model);
  BpeMerges merges = read_merges(model, vocabulary);
  BpeOptions options;
  options.byte_level = byte_level;
  options.ignore_merges = model.boolean("ignore_merges", false);
  options.byte_fallback = model.boolean("byte_fallback", false);
  options.fuse_unknown = model.boolean("fuse_unk", false);
  if (model.has("unk_token")) {
    options.unknown = vocabulary.find(model.text("unk_token"));
    if (!options.unknown) model.fail("unk_token", "a token of vocab");
  }
  return std::make_unique<BpeModel>(std::move(vocabulary), std::move(merges), options);
}

std::unique_ptr<const WordEncoder> read_word_piece(const JsonObject& model) {
  Vocabulary vocabulary = read_vocabulary(model);
  const auto unknown = vocabulary.find(model.text("unk_token"));
  if (!unknown) model.fail("unk_token", "a token of vocab");
  WordPieceOptions options;
  options.unknown = *unknown;
  options.continuing_prefix = model.text("continuing_subword_prefix");
  options.longest_word =
      static_cast<std::size_t>(model.integer("max_input_chars_per_word", 1, kMostWordCharacters));
  return std::make_unique<WordPieceModel>(std::move(vocabulary), std::move(options));
}

/// Adds [TOKEN, SCORE] under the next id and returns the score.
double read_scored_token(const JsonObject& model, const json& entry, Vocabulary& vocabulary) {
  const std::size_t id = vocabulary.size();
  const auto refuse = [&](std::string_view sentence) {
    model.refuse(fmt::format("vocab[{}]", id), sentence);
  };
  if (!entry.is_array() || entry.size() != 2 || !entry[0].is_string() || !entry[1].is_number()) {
    refuse(fmt::format("expected a token and its score, found {}", describe(entry)));
  }
  const auto& token = entry[0].get_ref<const std::string&>();
  if (token.size() > PieceTrie::kLongestPiece) {
    refuse(fmt::format("the token has {} bytes, expected at most {}", token.size(),
                       PieceTrie::kLongestPiece));
  }
  if (!vocabulary.add(token, static_cast<TokenId>(id))) {
    refuse(fmt::format("'{}' appears twice", printable(token)));
  }
  return as_huggingface_reads(entry[1].get<double>());
}

std::unique_ptr<const WordEncoder> read_unigram(const JsonObject& model, bool byte_level) {
  const json* list = model.find("vocab");
  if (list == nullptr || !list->is_array() || list->empty()) {
    model.fail("vocab", "a list of tokens and their scores");
  }
  Vocabulary vocabulary;
  vocabulary.reserve(list->size());
  std::vector<std::optional<double>> scores;
  double lowest = std::numeric_limits<double>::infinity();
  for (const json& entry : *list) {
    const double score = read_scored_token(model, entry, vocabulary);
    scores.emplace_back(score);
    lowest = std::min(lowest, score);
  }
  UnigramOptions options;
  options.byte_level = byte_level;
  options.byte_fallback = model.boolean("byte_fallback", false);
  options.unknown_score = lowest - kUnknownPenalty;
  if (model.has("unk_id")) {
    options.unknown = static_cast<TokenId>(
        model.integer("unk_id", 0, static_cast<std::int64_t>(scores.size()) - 1));
  }
  return std::make_unique<UnigramModel>(std::move(vocabulary), std::move(scores), options);
}

std::unique_ptr<const WordEncoder> read_model(const JsonObject& root, bool byte_level) {
  const JsonObject model = root.object("model");
  // Old files do not say that it is BPE.
  const std::string type = model.has("type") ? model.text("type") : "BPE";
  if (type == "BPE") return read_bpe(model, byte_level);
  if (type == "Unigram") return read_unigram(model, byte_level);
  if (type != "WordPiece") model.fail("type", "BPE, Unigram or WordPiece");
  if (byte_level) {
    model.refuse("type", "WordPiece takes characters, and the pre-tokenizer makes bytes of them");
  }
  return read_word_piece(model);
}

AddedToken read_added_token(const JsonObject& object, const Normalizer& normalizer) {
  AddedToken token;
  token.content = object.text("content");
  token.id = read_token_id(object, "id");
  token.special = object.boolean("special", false);
  token.normalized = object.boolean("normalized", !token.special);
  token.single_word = object.boolean("single_word", false);
  token.lstrip = object.boolean("lstrip", false);
  token.rstrip = object.boolean("rstrip", false);
  token.pattern = token.normalized ? normalizer.apply(token.content) : token.content;
  if (token.pattern != token.content) token.decoded = token.pattern;
  for (const std::string& text : {token.content, token.pattern}) {
    if (text.empty() || text.size() > AddedTokenMatcher::kLongestPattern) {
      object.fail("content", fmt::format("text of 1 to {} bytes, also when it is normalized",
                                         AddedTokenMatcher::kLongestPattern));
    }
  }
  return token;
}

std::vector<AddedToken> read_added_tokens(const JsonObject& root, const Vocabulary& vocabulary,
                                          const Normalizer& normalizer) {
  std::vector<AddedToken> tokens;
  if (!root.has("added_tokens")) return tokens;
  Vocabulary added;
  for (const JsonObject& each : root.objects("added_tokens")) {
    AddedToken token = read_added_token(each, normalizer);
    // What is in vocab, too, must be the same there.
    const auto known = vocabulary.token(token.id);
    const auto id = vocabulary.find(token.content);
    if ((known && *known != token.content) || (id && *id != token.id)) {
      each.refuse("id", fmt::format("'{}' has the id {}, which contradicts vocab",
                                    printable(token.content), token.id));
    }
    if (!added.add(token.content, token.id)) {
      each.refuse("content", "the token or its id appears twice");
    }
    tokens.push_back(std::move(token));
  }
  return tokens;
}

/// The first of `names` that is a token.
std::optional<TokenId> find_any(const Tokenizer& tokenizer,
                                std::initializer_list<std::string_view> names) {
  for (const std::string_view name : names) {
    if (const auto id = tokenizer.find(name)) return id;
  }
  return std::nullopt;
}

/// Names that published tokenizers use; tokenizer_config.json may say otherwise.
SpecialTokens usual_special_tokens(const Tokenizer& tokenizer) {
  return {.bos = find_any(tokenizer, {"<s>", "<|begin_of_text|>", "<|endoftext|>"}),
          .eos = find_any(tokenizer, {"</s>", "<|end_of_text|>", "<|endoftext|>"}),
          .unknown = find_any(tokenizer, {"<unk>", "[UNK]"}),
          .pad = find_any(tokenizer, {"<pad>", "[PAD]"}),
          .mask = find_any(tokenizer, {"<mask>", "[MASK]"})};
}

}  // namespace

Tokenizer parse_tokenizer_json(std::string_view text, const std::string& source) {
  const json document = parse_json(text, source, {.bytes = kLargestTokenizerFile});
  const JsonObject root(document, source);
  if (root.has("version") && root.text("version") != "1.0") root.fail("version", "\"1.0\"");

  Normalizer normalizer;
  if (root.has("normalizer")) normalizer = read_normalizer(root.object("normalizer"));
  PreTokenizer pre_tokenizer;
  if (root.has("pre_tokenizer")) pre_tokenizer = read_pre_tokenizer(root.object("pre_tokenizer"));
  std::unique_ptr<const WordEncoder> model = read_model(root, pre_tokenizer.byte_level());
  std::vector<AddedToken> added = read_added_tokens(root, model->vocabulary(), normalizer);
  PostProcessor post_processor;
  if (root.has("post_processor")) {
    const auto is_token = [&](TokenId id) {
      return model->vocabulary().token(id).has_value() ||
             std::ranges::any_of(added, [&](const AddedToken& each) { return each.id == id; });
    };
    post_processor = read_post_processor(root.object("post_processor"), is_token);
  }
  Tokenizer tokenizer({.format = TokenizerFormat::huggingface,
                       .added_tokens = std::move(added),
                       .normalizer = std::move(normalizer),
                       .pre_tokenizer = std::move(pre_tokenizer),
                       .model = std::move(model),
                       .post_processor = std::move(post_processor),
                       .decoder = root.has("decoder") ? read_decoder(root.object("decoder"))
                                                      : make_joining_decoder(),
                       .special = {}});
  tokenizer.set_special(usual_special_tokens(tokenizer));
  return tokenizer;
}

}  // namespace portolan
