// SPDX-License-Identifier: Apache-2.0
// Seeded random damage to sound inputs: whatever comes out must be a sound result or an InputError.
#include <gtest/gtest.h>

#include <filesystem>
#include <limits>
#include <random>
#include <string>

#include "core/error.hpp"
#include "core/safetensors.hpp"
#include "models/config.hpp"
#include "models/tokenizers/tokenizer_json.hpp"
#include "models/tokenizers/tokenizer_sentencepiece.hpp"
#include "models/tokenizers/unicode_text.hpp"
#include "tests/unit/file_testing.hpp"
#include "tests/unit/tokenizer_testing.hpp"

namespace portolan {
namespace {

using nlohmann::json;
using testing::data_path;
using testing::read_file;

class Mutator {
 public:
  explicit Mutator(std::uint32_t seed) : random_(seed) {}

  /// One to four changes.
  std::string operator()(std::string text) {
    const std::size_t changes = 1 + below(4);
    for (std::size_t i = 0; i < changes; ++i) change(text);
    return text;
  }

 private:
  std::size_t below(std::size_t limit) { return random_() % limit; }

  void change(std::string& text) {
    static const std::vector<std::string> kFragments{"{",
                                                     "}",
                                                     "[",
                                                     "]",
                                                     ",",
                                                     ":",
                                                     "\"",
                                                     "\\u",
                                                     "\\ud800",
                                                     "null",
                                                     "-1",
                                                     "1e99",
                                                     "1e999",
                                                     "0",
                                                     "NaN",
                                                     "true",
                                                     "\xff",
                                                     std::string(1, '\0'),
                                                     "[[",
                                                     "{}",
                                                     "[]",
                                                     "//",
                                                     "\"x\":0",
                                                     "9223372036854775807",
                                                     "18446744073709551616",
                                                     "4294967296",
                                                     "F32",
                                                     "BF16",
                                                     "dtype",
                                                     "shape",
                                                     "data_offsets",
                                                     "__metadata__",
                                                     "ByteLevel",
                                                     "(a*)*",
                                                     "\\\\s",
                                                     "Sequence"};
    const std::size_t at = below(text.size() + 1);
    const std::size_t length = std::min(text.size() - at, 1 + below(12));
    switch (below(6)) {
      case 0:
        text.insert(at, kFragments[below(kFragments.size())]);
        return;
      case 1:
        text.replace(at, length, kFragments[below(kFragments.size())]);
        return;
      case 2:
        text.erase(at, length);
        return;
      case 3:
        if (at < text.size()) text[at] = static_cast<char>(below(256));
        return;
      case 4:
        text.insert(at, text.substr(below(text.size() + 1), 1 + below(40)));
        return;
      default:
        text.resize(below(text.size() + 1));
    }
  }

  std::mt19937 random_;
};

std::vector<std::string> controls(const std::string& extension) {
  std::vector<std::filesystem::path> paths;
  for (const auto& entry :
       std::filesystem::recursive_directory_iterator(data_path("bad/controls"))) {
    if (entry.path().extension() == extension) paths.push_back(entry.path());
  }
  std::sort(paths.begin(), paths.end());
  std::vector<std::string> texts;
  for (const auto& path : paths) texts.push_back(read_file(path));
  return texts;
}

/// Every tensor lies within the data and has the bytes that its elements need.
void expect_sound(const SafetensorsHeader& header, std::size_t file_size) {
  std::uint64_t end = 0;
  for (const SafetensorsEntry& entry : header.entries) {
    ASSERT_EQ(entry.begin, end);
    ASSERT_LE(entry.end, file_size - header.data_begin);
    if (entry.dtype) {
      ASSERT_EQ(static_cast<std::uint64_t>(entry.elements()) * size_of(*entry.dtype),
                entry.byte_size());
    }
    end = entry.end;
  }
  ASSERT_EQ(end, file_size - header.data_begin);
}

TEST(Mutations, OfSafetensorsFilesGiveSoundHeadersOrInputErrors) {
  const auto seeds = controls(".safetensors");
  ASSERT_GE(seeds.size(), 11u);
  Mutator mutate(1);
  int accepted = 0;
  int refused = 0;
  for (int round = 0; round < 3000; ++round) {
    for (const std::string& seed : seeds) {
      std::string bytes = mutate(seed);
      if (bytes.size() >= 8 && round % 4 != 0) {
        // Mostly with a fitting length of the header, so that damage to the text is looked at.
        const std::size_t close = bytes.rfind('}');
        const std::size_t length = close == std::string::npos || close < 8 ? 0 : close - 7;
        for (std::size_t i = 0; i < 8; ++i) {
          bytes[i] = static_cast<char>((length >> (8 * i)) & 0xFFu);
        }
      }
      try {
        expect_sound(parse_safetensors(std::as_bytes(std::span(bytes)), "mutated"), bytes.size());
        ++accepted;
      } catch (const InputError&) {
        ++refused;
      }
    }
  }
  // Both ends must have been reached, or the damage was of the wrong strength.
  EXPECT_GT(accepted, 100);
  EXPECT_GT(refused, 1000);
}

TEST(Mutations, OfConfigsGiveBoundedConfigsOrInputErrors) {
  const auto seeds = controls(".json");
  ASSERT_GE(seeds.size(), 4u);
  Mutator mutate(2);
  int accepted = 0;
  int refused = 0;
  for (int round = 0; round < 6000; ++round) {
    for (const std::string& seed : seeds) {
      try {
        const ModelConfig config = parse_model_config(mutate(seed), "mutated");
        const CommonConfig& common = config.common();
        ASSERT_GE(common.hidden_size, 1);
        ASSERT_LE(common.hidden_size, kMaximumHiddenSize);
        ASSERT_GE(common.head_dim, 1);
        ASSERT_LE(common.head_dim, kMaximumHeadDim);
        ASSERT_LE(common.layers, kMaximumLayers);
        ASSERT_LE(common.vocab_size, kMaximumVocabSize);
        ++accepted;
      } catch (const InputError&) {
        ++refused;
      }
    }
  }
  EXPECT_GT(accepted, 100);
  EXPECT_GT(refused, 1000);
}

/// Bad or good, a text goes in and whole characters come out.
void expect_sound(const Tokenizer& tokenizer, std::size_t file_size) {
  // Every token takes at least three bytes of its file.
  ASSERT_LE(tokenizer.vocab_size(), file_size);
  try {
    const auto ids = tokenizer.encode("the <s>A\xC3\xA4  12\n\xE6\x97\xA5");
    ASSERT_FALSE(find_invalid_utf8(tokenizer.decode(ids)).has_value());
  } catch (const Error&) {
    // A damaged pattern may run without end, and is stopped.
  }
}

/// Counts what `read` makes of mutations of `seeds`.
template <typename Read>
void mutate_tokenizers(std::uint32_t seed, int rounds, const std::vector<std::string>& seeds,
                       const Read& read) {
  Mutator mutate(seed);
  int accepted = 0;
  int refused = 0;
  for (int round = 0; round < rounds; ++round) {
    for (const std::string& each : seeds) {
      const std::string bytes = mutate(each);
      try {
        expect_sound(read(bytes), bytes.size());
        ++accepted;
      } catch (const InputError&) {
        ++refused;
      } catch (const UnsupportedError&) {
        ++refused;
      }
    }
  }
  EXPECT_GT(accepted, 100);
  EXPECT_GT(refused, 1000);
}

TEST(Mutations, OfTokenizerJsonsGiveSoundTokenizersOrInputErrors) {
  std::vector<std::string> seeds;
  for (testing::ComponentCase& component : testing::component_cases()) {
    // With the small tables alone, so that most damage is not to them.
    json& model = component.document["model"];
    if (model.at("merges").size() > 8) {
      model["vocab"] = {{"a", 0}, {"b", 1}, {"ab", 2}, {"<unk>", 3}, {"\u2581", 4}, {"<s>", 5}};
      model["merges"] = {"a b"};
      component.document["added_tokens"] = json::array();
      component.document["post_processor"] = nullptr;
    }
    seeds.push_back(component.document.dump());
  }
  mutate_tokenizers(3, 60, seeds,
                    [](const std::string& text) { return parse_tokenizer_json(text, "mutated"); });
}

TEST(Mutations, OfSentencePieceModelsGiveSoundTokenizersOrErrors) {
  const std::string model = read_file(data_path("tokenizers/llama2-spm/tokenizer.model"));
  mutate_tokenizers(4, 8000, {model}, [](const std::string& bytes) {
    return parse_tokenizer_sentencepiece(bytes, "mutated");
  });
}

}  // namespace
}  // namespace portolan
