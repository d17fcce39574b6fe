// SPDX-License-Identifier: Apache-2.0
// Which files are tokenizers, and what is refused.
#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "core/error.hpp"
#include "models/tokenizers/tokenizer_json.hpp"
#include "models/tokenizers/tokenizer_sentencepiece.hpp"
#include "tests/unit/tokenizer_testing.hpp"

namespace portolan {
namespace {

using nlohmann::json;
using testing::data_path;
using testing::input_error;
using testing::read_file;
using testing::TemporaryFolder;
using testing::write_file;

class MalformedTokenizer : public ::testing::TestWithParam<testing::BadCase> {};

TEST_P(MalformedTokenizer, IsRefusedWithOneLineThatStartsWithThePathAsGiven) {
  const auto path = data_path("bad/" + GetParam().path);
  const auto before = testing::resident_bytes();
  const std::string message = input_error([&] { static_cast<void>(load_tokenizer(path)); });
  EXPECT_TRUE(message.starts_with(path.string() + ": ")) << message;
  EXPECT_NE(message.find(GetParam().error_should_name), std::string::npos) << message;
  EXPECT_LT(testing::resident_bytes() - before, std::int64_t{64} << 20);
}

INSTANTIATE_TEST_SUITE_P(, MalformedTokenizer, ::testing::ValuesIn(testing::bad_cases("tokenizer")),
                         [](const auto& each) { return testing::identifier(each.param.path); });

/// A sound document to damage.
json sound() {
  return json::parse(R"({"model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2},
                                   "merges": ["a b"]},
                         "added_tokens": [{"id": 3, "content": "<s>", "special": true}]})");
}

Tokenizer parse(const json& document) { return parse_tokenizer_json(document.dump(), "t.json"); }

/// The message for the sound document with the member at `pointer` set to `value`.
std::string refusal(const std::string& pointer, const json& value) {
  json document = sound();
  document[json::json_pointer(pointer)] = value;
  return input_error([&] { static_cast<void>(parse(document)); });
}

void expect_refusal(const std::string& pointer, const json& value, const std::string& words) {
  const std::string message = refusal(pointer, value);
  EXPECT_TRUE(message.starts_with("t.json: ")) << message;
  EXPECT_NE(message.find(words), std::string::npos) << message;
}

TEST(TokenizerJson, TheSoundDocumentIsRead) {
  const Tokenizer tokenizer = parse(sound());
  EXPECT_EQ(tokenizer.vocab_size(), 4u);
  EXPECT_EQ(tokenizer.encode("abba<s>"), (std::vector<TokenId>{2, 1, 0, 3}));
  EXPECT_EQ(tokenizer.find("<s>"), 3);
  EXPECT_EQ(tokenizer.token(2), "ab");
  EXPECT_FALSE(tokenizer.token(4).has_value());
  EXPECT_FALSE(tokenizer.token(-1).has_value());
  EXPECT_EQ(tokenizer.special().bos, 3);
  EXPECT_TRUE(tokenizer.is_special(3));
  EXPECT_EQ(tokenizer.decode(std::vector<TokenId>{2, 99, -5, 3}, true), "ab");
}

TEST(TokenizerJson, EndTokensAreEosAndTheEndsOfMessages) {
  const auto end_tokens = [](const char* name) {
    return load_tokenizer(data_path(name)).end_tokens();
  };
  EXPECT_EQ(end_tokens("tokenizers/llama3-bbpe"), (std::vector<TokenId>{645, 649}));
  EXPECT_EQ(end_tokens("tokenizers/llama2-spm/tokenizer.model"), (std::vector<TokenId>{2}));
  json document = sound();
  EXPECT_EQ(parse(document).end_tokens(), std::vector<TokenId>{});
  document["added_tokens"].push_back({{"id", 4}, {"content", "<|eot_id|>"}, {"special", true}});
  document["added_tokens"].push_back({{"id", 5}, {"content", "<|eom_id|>"}, {"special", false}});
  Tokenizer tokenizer = parse(document);
  EXPECT_EQ(tokenizer.end_tokens(), std::vector<TokenId>{4}) << "an ordinary word ends nothing";
  SpecialTokens special = tokenizer.special();
  special.eos = 4;
  tokenizer.set_special(special);
  EXPECT_EQ(tokenizer.end_tokens(), std::vector<TokenId>{4});
}

TEST(TokenizerJson, WhatCannotBeHonouredIsRefusedWithTheField) {
  expect_refusal("/version", "2.0", "'version'");
  expect_refusal("/model/type", "WordLevel", "'model.type'");
  expect_refusal("/model/type", "Unigram", "'model.vocab'");
  expect_refusal("/model/dropout", 0.5, "'model.dropout'");
  expect_refusal("/model/continuing_subword_prefix", "##", "'model.continuing_subword_prefix'");
  expect_refusal("/model/end_of_word_suffix", "</w>", "'model.end_of_word_suffix'");
  expect_refusal("/model/unk_token", "zzz", "'model.unk_token'");
  expect_refusal("/model/vocab", json::object(), "'model.vocab'");
  expect_refusal("/model/merges/0", "a  b", "'model.merges[0]'");
  expect_refusal("/added_tokens/0/id", 1, "'added_tokens[0].id'");
  expect_refusal("/added_tokens/0/content", "a", "'added_tokens[0].id'");
  expect_refusal("/added_tokens/0/content", "", "'added_tokens[0].content'");
  expect_refusal("/added_tokens/0/content", std::string(5000, 'x'), "'added_tokens[0].content'");
  expect_refusal("/added_tokens/1", {{"id", 3}, {"content", "<t>"}}, "twice");
  expect_refusal("/added_tokens", 5, "'added_tokens'");
  expect_refusal("/normalizer", {{"type", "Precompiled"}}, "'normalizer.precompiled_charsmap'");
  for (const char* map : {"", "AAAA", "BAAAAA=", "BAAAAAAAAAD/"}) {
    expect_refusal("/normalizer", {{"type", "Precompiled"}, {"precompiled_charsmap", map}},
                   "'normalizer.precompiled_charsmap'");
  }
  expect_refusal("/normalizer", {{"type", "Sequence"}, {"normalizers", {{{"type", "Nmt"}}}}},
                 "'normalizer.normalizers[0].type'");
  expect_refusal("/normalizer",
                 {{"type", "Replace"}, {"pattern", {{"String", ""}}}, {"content", "x"}},
                 "'normalizer.pattern.String'");
  expect_refusal("/pre_tokenizer",
                 {{"type", "Split"}, {"pattern", {{"String", "a"}}}, {"behavior", "Sideways"}},
                 "'pre_tokenizer.behavior'");
  expect_refusal("/pre_tokenizer",
                 {{"type", "Split"}, {"pattern", {{"Glob", "a"}}}, {"behavior", "Removed"}},
                 "'pre_tokenizer.pattern'");
  expect_refusal("/pre_tokenizer", {{"type", "Metaspace"}, {"replacement", "xy"}},
                 "'pre_tokenizer.replacement'");
  expect_refusal("/pre_tokenizer",
                 {{"type", "Metaspace"}, {"replacement", "x"}, {"prepend_scheme", "last"}},
                 "'pre_tokenizer.prepend_scheme'");
  expect_refusal("/decoder", {{"type", "CTC"}}, "'decoder.type'");
  expect_refusal("/decoder", {{"type", "Strip"}, {"content", " "}, {"start", -1}, {"stop", 0}},
                 "'decoder.start'");
  expect_refusal("/post_processor", {{"type", "BertProcessing"}, {"cls", {"<s>", 9}}},
                 "'post_processor.cls'");
  expect_refusal("/post_processor", {{"type", "BertProcessing"}, {"cls", "<s>"}},
                 "'post_processor.cls'");
  const json text{{"Sequence", {{"id", "A"}, {"type_id", 0}}}};
  const auto single = [](const json& pieces) {
    return json{
        {"type", "TemplateProcessing"}, {"single", pieces}, {"special_tokens", json::object()}};
  };
  expect_refusal("/post_processor", single(json::array()), "'post_processor.single'");
  expect_refusal("/post_processor", single({text, text}), "twice");
  expect_refusal("/post_processor", single({{{"Sequence", {{"id", "B"}}}}}), "single[0].Sequence");
}

TEST(TokenizerJson, UnigramVocabulariesAreListsOfTokensAndScores) {
  const std::string vocabulary = R"([["<unk>", 0], ["a", -1.5], ["b", -2]])";
  const auto unigram = [](const std::string& vocab, const std::string& unknown) {
    return parse_tokenizer_json(
        R"({"model": {"type": "Unigram", "vocab": )" + vocab + R"(, "unk_id": )" + unknown + "}}",
        "t.json");
  };
  EXPECT_EQ(unigram(vocabulary, "0").encode("abxxb"), (std::vector<TokenId>{1, 2, 0, 2}));
  EXPECT_EQ(unigram(vocabulary, "null").encode("ab"), (std::vector<TokenId>{1, 2}));
  EXPECT_THROW(static_cast<void>(unigram(vocabulary, "null").encode("x")), UsageError);
  const auto expect_refused = [&](const std::string& vocab, const std::string& unknown,
                                  const std::string& words) {
    const std::string message = input_error([&] { static_cast<void>(unigram(vocab, unknown)); });
    EXPECT_NE(message.find(words), std::string::npos) << message;
  };
  expect_refused(vocabulary, "3", "'model.unk_id'");
  expect_refused(vocabulary, "-1", "'model.unk_id'");
  expect_refused("[]", "null", "'model.vocab'");
  expect_refused(R"({"a": 0})", "0", "'model.vocab'");
  expect_refused(R"(["a", "b"])", "0", "'model.vocab[0]'");
  expect_refused(R"([["a", 0], ["b"]])", "0", "'model.vocab[1]'");
  expect_refused(R"([["a", 0], ["b", "0"]])", "0", "'model.vocab[1]'");
  expect_refused(R"([["a", 0], ["b", 0], ["a", 0]])", "0", "'model.vocab[2]': 'a' appears twice");
  expect_refused("[[\"" + std::string(1025, 'a') + "\", 0]]", "0", "1025 bytes");
}

TEST(TokenizerJson, APatternThatNeverEndsIsStopped) {
  json document = sound();
  document["pre_tokenizer"] = {
      {"type", "Split"}, {"pattern", {{"Regex", "(a+)+$"}}}, {"behavior", "Isolated"}};
  const Tokenizer tokenizer = parse(document);
  EXPECT_THROW(static_cast<void>(tokenizer.encode(std::string(64, 'a') + "b")), Error);
}

TEST(TokenizerJson, DeepNestingIsRefused) {
  json normalizer{{"type", "NFC"}};
  for (int i = 0; i < 100; ++i) {
    normalizer = json{{"type", "Sequence"}, {"normalizers", json::array({normalizer})}};
  }
  EXPECT_FALSE(refusal("/normalizer", normalizer).empty());
}

TEST(Tokenizers, OneServesSeveralThreads) {
  const Tokenizer tokenizer = load_tokenizer(data_path("tokenizers/gpt2-bbpe"));
  const std::string text = read_file(data_path("tokenizers/README.md"));
  const std::vector<TokenId> expected = tokenizer.encode(text);
  std::atomic<int> different = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int round = 0; round < 50; ++round) {
        if (tokenizer.encode(text) != expected) ++different;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(different, 0);
}

TEST(Tokenizers, AFoldersJsonWinsAndItsConfigNamesTheSpecialTokens) {
  const TemporaryFolder folder;
  EXPECT_NE(
      input_error([&] { static_cast<void>(load_tokenizer(folder.path())); }).find("tokenizer.json"),
      std::string::npos);
  EXPECT_FALSE(find_tokenizer(folder.path()).has_value());
  const auto source = data_path("tokenizers/llama2-spm");
  write_file(folder / "tokenizer.model", read_file(source / "tokenizer.model"));
  EXPECT_EQ(load_tokenizer(folder.path()).format(), TokenizerFormat::sentencepiece);
  write_file(folder / "tokenizer.json", read_file(source / "tokenizer.json"));
  EXPECT_EQ(load_tokenizer(folder.path()).format(), TokenizerFormat::huggingface);
  EXPECT_EQ(load_tokenizer(folder.path()).special().eos, 2);
  write_file(folder / "special_tokens_map.json", R"({"eos_token": "<s>", "pad_token": "<none>"})");
  EXPECT_EQ(load_tokenizer(folder.path()).special().eos, 1);
  EXPECT_FALSE(load_tokenizer(folder.path()).special().pad.has_value());
  write_file(folder / "tokenizer_config.json",
             R"({"eos_token": {"content": "<unk>"}, "pad_token": null})");
  EXPECT_EQ(load_tokenizer(folder.path()).special().eos, 0);
  write_file(folder / "tokenizer_config.json", R"({"eos_token": 2})");
  EXPECT_NE(
      input_error([&] { static_cast<void>(load_tokenizer(folder.path())); }).find("eos_token"),
      std::string::npos);
}

TEST(Tokenizers, AFoldersConfigSaysWhatGoesRoundTextsOfASentencePieceModel) {
  const TemporaryFolder folder;
  write_file(folder / "tokenizer.model",
             read_file(data_path("tokenizers/llama2-spm/tokenizer.model")));
  const auto around = [&](const std::string& config) {
    write_file(folder / "tokenizer_config.json", config);
    return load_tokenizer(folder.path()).encode("");
  };
  EXPECT_EQ(around("{}"), std::vector<TokenId>{1});
  EXPECT_EQ(around(R"({"add_bos_token": false})"), std::vector<TokenId>{});
  EXPECT_EQ(around(R"({"add_eos_token": true})"), (std::vector<TokenId>{1, 2}));
  EXPECT_EQ(around(R"({"add_bos_token": true, "bos_token": "</s>"})"), std::vector<TokenId>{2});
  EXPECT_EQ(load_tokenizer(folder / "tokenizer.model").encode(""), std::vector<TokenId>{1});
  EXPECT_NE(input_error([&] { around(R"({"add_bos_token": "yes"})"); }).find("add_bos_token"),
            std::string::npos);
}

/// The key of a message's field.
std::string key(unsigned number, unsigned wire_type) {
  const unsigned value = number << 3 | wire_type;
  if (value < 0x80) return std::string(1, static_cast<char>(value));
  std::string text(1, static_cast<char>(0x80 | (value & 0x7F)));
  text += static_cast<char>(value >> 7);
  return text;
}

/// A field that holds fewer than 128 bytes.
std::string field(unsigned number, const std::string& bytes) {
  std::string text = key(number, 2);
  text += static_cast<char>(bytes.size());
  return text + bytes;
}

/// A field that holds a number below 128.
std::string number_field(unsigned number, unsigned value) {
  std::string text = key(number, 0);
  text += static_cast<char>(value);
  return text;
}

std::string piece(const std::string& text, unsigned type, unsigned negative_score = 0) {
  // -2^k as a float: one byte of its exponent is enough.
  std::string score(4, '\0');
  if (negative_score != 0) {
    score[3] = '\xC0';
    score[2] = static_cast<char>(negative_score);
  }
  return field(1, field(1, text) + std::string(1, '\x15') + score + number_field(3, type));
}

const std::string kBpe = field(2, number_field(3, 2));

TEST(SentencePiece, AModelMadeByHandIsRead) {
  const std::string trainer = field(2, number_field(3, 2) + field(46, "<go>"));
  const std::string normalizer = field(3, number_field(3, 0) + number_field(4, 0));
  const std::string file = piece("?", 2) + piece("<go>", 3) + piece("a", 1, 9) + piece("b", 1, 9) +
                           piece("bb", 1, 1) + piece("ab", 1, 2) + piece("a+", 4) + trainer +
                           normalizer;
  const Tokenizer tokenizer = parse_tokenizer_sentencepiece(file, "m");
  EXPECT_EQ(tokenizer.special().bos, 1);
  EXPECT_EQ(tokenizer.special().unknown, 0);
  // The higher score goes first; a user's piece is found before that; unknown ones become one.
  EXPECT_EQ(tokenizer.encode("abb"), (std::vector<TokenId>{1, 2, 4}));
  EXPECT_EQ(tokenizer.encode("aba+b", false), (std::vector<TokenId>{5, 6, 3}));
  EXPECT_EQ(tokenizer.encode("axyb<go>", false), (std::vector<TokenId>{2, 0, 3, 0}));
  EXPECT_EQ(tokenizer.decode(std::vector<TokenId>{1, 5, 6}, true), "aba+");
}

TEST(SentencePiece, ExtraSpacesGoWhereTheModelSaysSo) {
  const std::string normalizer = field(3, number_field(3, 1) + number_field(4, 1));
  const std::string file = piece("<unk>", 2) + piece("a", 1, 9) + piece("\xE2\x96\x81", 1, 9) +
                           piece(
                               "\xE2\x96\x81"
                               "a",
                               1, 1) +
                           kBpe + normalizer;
  const Tokenizer tokenizer = parse_tokenizer_sentencepiece(file, "m");
  EXPECT_EQ(tokenizer.encode("  a   a ", false), (std::vector<TokenId>{3, 3}));
  EXPECT_EQ(tokenizer.encode("   ", false), std::vector<TokenId>());
}

TEST(SentencePiece, AUnigramModelMadeByHandIsRead) {
  const std::string trainer = field(2, number_field(3, 1) + field(44, "-"));
  const std::string normalizer = field(3, number_field(3, 0) + number_field(4, 0));
  const std::string file = piece("<unk>", 2) + piece("<s>", 3) + piece("a", 1, 1) +
                           piece("b", 1, 1) + piece("ab", 1, 0) + piece("aab", 5) + piece("b+", 4) +
                           piece("<pad>", 3) + trainer + normalizer;
  const Tokenizer tokenizer = parse_tokenizer_sentencepiece(file, "m");
  EXPECT_EQ(tokenizer.special().pad, 7);
  EXPECT_EQ(tokenizer.encode("ab"), (std::vector<TokenId>{1, 4}));
  EXPECT_EQ(tokenizer.encode("aab", false), (std::vector<TokenId>{2, 4})) << "aab is not used";
  EXPECT_EQ(tokenizer.encode("ab+xx<s>b", false), (std::vector<TokenId>{2, 6, 0, 3}));
  EXPECT_EQ(tokenizer.decode(std::vector<TokenId>{2, 6, 0, 3}), "ab+-b");
}

TEST(SentencePiece, DecodesBytesOneCharacterAfterTheOther) {
  std::string file = piece("<unk>", 2) + piece("\xE2\x96\x81", 1) + piece("<0xC3>", 6) +
                     piece("<0xA4>", 6) + piece("<0xE2>", 6) + piece("a", 1) + kBpe;
  const auto decode = [](const Tokenizer& tokenizer, const std::vector<TokenId>& ids) {
    const std::string text = tokenizer.decode(ids);
    EXPECT_EQ(testing::decode_streaming(tokenizer, ids, false), text);
    return text;
  };
  const Tokenizer tokenizer = parse_tokenizer_sentencepiece(file, "m");
  EXPECT_EQ(decode(tokenizer, {2, 3, 3, 2, 3}), "\u00E4\uFFFD\u00E4");
  EXPECT_EQ(decode(tokenizer, {4, 3, 5, 4}), "\uFFFD\uFFFDa\uFFFD");
  // Nothing but the model says which markers go from the start.
  EXPECT_EQ(decode(tokenizer, {1, 1, 5, 1}), "a ");
  EXPECT_EQ(decode(tokenizer, {2, 3, 1, 5}), "\u00E4 a");
  EXPECT_EQ(decode(tokenizer, {0, 1, 5}), " \u2047  a");
  const auto with = [&](unsigned prefix, unsigned remove) {
    return parse_tokenizer_sentencepiece(
        file + field(3, number_field(3, prefix) + number_field(4, remove)), "m");
  };
  EXPECT_EQ(decode(with(1, 0), {1, 1, 5, 1}), " a ");
  EXPECT_EQ(decode(with(0, 1), {1, 1, 5, 1}), "a ");
  EXPECT_EQ(decode(with(0, 0), {1, 1, 5, 1}), "  a ");
}

TEST(SentencePiece, DamagedModelsAreRefused) {
  const auto refusal = [](const std::string& file) {
    return input_error([&] { static_cast<void>(parse_tokenizer_sentencepiece(file, "m")); });
  };
  const std::string unknown = piece("<unk>", 2);
  EXPECT_NE(refusal(kBpe).find("unknown"), std::string::npos);
  EXPECT_NE(refusal(unknown + piece("u", 2) + kBpe).find("found 2"), std::string::npos);
  EXPECT_NE(refusal(unknown + piece("a", 1) + piece("a", 1) + kBpe).find("twice"),
            std::string::npos);
  EXPECT_NE(refusal(unknown + piece("", 1) + kBpe).find("0 bytes"), std::string::npos);
  EXPECT_NE(refusal(unknown + piece("\xFF", 1) + kBpe).find("UTF-8"), std::string::npos);
  EXPECT_NE(refusal(unknown + piece("a", 7) + kBpe).find("type"), std::string::npos);
  EXPECT_NE(refusal(unknown + number_field(1, 5)).find("another type"), std::string::npos);
  EXPECT_NE(refusal(unknown + field(1, std::string("\x0d\0\0\x80\x7f", 5))).find("another type"),
            std::string::npos);
  EXPECT_NE(refusal(unknown + field(1, field(1, "x") + std::string("\x15\0\0\x80\x7f", 5)) + kBpe)
                .find("score"),
            std::string::npos);
  EXPECT_NE(refusal(unknown + field(2, number_field(3, 1) + field(44, "\xFF"))).find("UTF-8"),
            std::string::npos);
  EXPECT_NE(refusal(unknown + kBpe + field(3, field(2, "map"))).find("precompiled_charsmap"),
            std::string::npos);
  EXPECT_NE(refusal(std::string("\0", 1)).find("number"), std::string::npos);
}

TEST(SentencePiece, ModelsOfOtherKindsAreUnsupported) {
  const std::string pieces = piece("<unk>", 2) + piece("a", 1);
  const auto expect_unsupported = [](const std::string& file, const std::string& word) {
    try {
      static_cast<void>(parse_tokenizer_sentencepiece(file, "m"));
      ADD_FAILURE() << "accepted: " << word;
    } catch (const UnsupportedError& error) {
      EXPECT_NE(std::string(error.what()).find(word), std::string::npos) << error.what();
    }
  };
  expect_unsupported(pieces + field(2, number_field(3, 3)), "another type");
  expect_unsupported(pieces + field(2, number_field(3, 4)), "another type");
  expect_unsupported(pieces + field(2, number_field(3, 2) + number_field(24, 1)), "behind words");
  expect_unsupported(pieces + kBpe + field(5, field(2, "map")), "decoded text");
  expect_unsupported(pieces + piece("b", 5) + kBpe, "unused");
}

}  // namespace
}  // namespace portolan
