// SPDX-License-Identifier: Apache-2.0
// Seeded random damage to sound inputs: whatever comes out must be a sound result or an InputError.
#include <gtest/gtest.h>

#include <array>
#include <filesystem>
#include <limits>
#include <random>
#include <string>

#include "core/error.hpp"
#include "core/pickle.hpp"
#include "core/safetensors.hpp"
#include "core/torch_file.hpp"
#include "models/config.hpp"
#include "models/meta_config.hpp"
#include "models/tokenizers/tokenizer_json.hpp"
#include "models/tokenizers/tokenizer_sentencepiece.hpp"
#include "models/tokenizers/unicode_text.hpp"
#include "tests/unit/file_testing.hpp"
#include "tests/unit/pickle_testing.hpp"
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
    static const std::vector<std::string> fragments{"{",
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
        text.insert(at, fragments[below(fragments.size())]);
        return;
      case 1:
        text.replace(at, length, fragments[below(fragments.size())]);
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

/// A pickle of three tensors in one storage.
std::string sound_pickle() {
  std::vector<std::pair<std::string, std::string>> items;
  for (const std::int64_t rows : {1, 2, 3}) {
    testing::PickledTensor tensor;
    tensor.storage_elements = 12;
    tensor.offset = 3 - rows;
    tensor.shape = {rows, 3};
    items.emplace_back("layers." + std::to_string(rows), tensor.bytes());
  }
  return testing::pickle::document(testing::pickled_dictionary(items));
}

/// Every reference leads to a value.
void expect_sound(const PickleDocument& document) {
  const auto check = [&document](const std::vector<PickleReference>& references) {
    for (const PickleReference each : references) ASSERT_LT(each, document.values.size());
  };
  check({document.root});
  for (const PickleValue& value : document.values) {
    if (const auto* tuple = std::get_if<PickleTuple>(&value)) check(tuple->items);
    if (const auto* list = std::get_if<PickleList>(&value)) check(list->items);
    if (const auto* call = std::get_if<PickleCall>(&value))
      check({call->function, call->arguments});
    if (const auto* persistent = std::get_if<PicklePersistent>(&value)) {
      check({persistent->identifier});
    }
    if (const auto* dictionary = std::get_if<PickleDictionary>(&value)) {
      for (const auto& [key, item] : dictionary->items) check({key, item});
    }
  }
}

TEST(Mutations, OfPicklesGiveSoundDocumentsOrInputErrors) {
  constexpr std::array<std::string_view, 3> kAllowed{
      "collections.OrderedDict", "torch.FloatStorage", "torch._utils._rebuild_tensor_v2"};
  const std::string seed = sound_pickle();
  Mutator mutate(3);
  int accepted = 0;
  int refused = 0;
  for (int round = 0; round < 10000; ++round) {
    const std::string bytes = mutate(seed);
    try {
      expect_sound(parse_pickle(std::as_bytes(std::span(bytes)), "mutated", kAllowed));
      ++accepted;
    } catch (const InputError&) {
      ++refused;
    }
  }
  EXPECT_GT(accepted, 100);
  EXPECT_GT(refused, 1000);
}

TEST(Mutations, OfTorchFilesGiveTensorsWithinTheFileOrInputErrors) {
  const std::string seed = sound_pickle();
  const testing::TemporaryFolder folder;
  const std::string storage(4800, 'x');  // so that some damage does no harm
  Mutator mutate(4);
  int accepted = 0;
  int refused = 0;
  for (int round = 0; round < 1000; ++round) {
    // Now the pickle in a sound archive, now the archive.
    const bool inside = round % 2 != 0;
    const std::string bytes = inside ? testing::torch_bytes(mutate(seed), storage)
                                     : mutate(testing::torch_bytes(seed, storage));
    testing::write_file(folder / "m.pth", bytes);
    try {
      const TorchFile file(folder / "m.pth");
      for (const TensorEntry& entry : file.entries()) {
        ASSERT_LE(entry.begin, entry.end);
        const std::int64_t stride = entry.row_stride == 0 ? entry.columns() : entry.row_stride;
        const std::uint64_t width = entry.dtype ? size_of(*entry.dtype) : 1;
        const auto last = static_cast<std::uint64_t>((entry.rows() - 1) * stride + entry.columns());
        if (entry.elements() > 0) {
          ASSERT_LE(entry.begin + last * width, bytes.size());
        }
      }
      ++accepted;
    } catch (const InputError&) {
      ++refused;
    }
  }
  EXPECT_GT(accepted, 20);
  EXPECT_GT(refused, 300);
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

TEST(Mutations, OfMetaConfigsGiveBoundedConfigsOrInputErrors) {
  const std::string seed = meta_config_text(preset_config("llama-3-8b").llama());
  Mutator mutate(5);
  int accepted = 0;
  int refused = 0;
  for (int round = 0; round < 10000; ++round) {
    try {
      const LlamaConfig config = parse_meta_config(mutate(seed), "mutated");
      ASSERT_GE(config.hidden_size, 1);
      ASSERT_LE(config.hidden_size, kMaximumHiddenSize);
      ASSERT_GE(config.intermediate_size, 1);
      ASSERT_LE(config.intermediate_size, kMaximumIntermediateSize);
      ASSERT_EQ(config.attention_heads % config.kv_heads, 0);
      ASSERT_LE(config.head_dim, kMaximumHeadDim);
      ++accepted;
    } catch (const InputError&) {
      ++refused;
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
    const std::string type = model.value("type", "BPE");
    if (type == "Unigram") {
      model["vocab"] = json::parse(R"([["<unk>", 0], ["a", -1.5], ["b", -2], ["ab", -2.5]])");
    } else if (type == "WordPiece") {
      model["vocab"] = {{"a", 0}, {"##b", 1}, {"ab", 2}, {"[UNK]", 3}};
    } else if (model.at("merges").size() > 8) {
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
  const std::vector<std::string> seeds{
      read_file(data_path("tokenizers/llama2-spm/tokenizer.model")),
      read_file(data_path("tokenizers/unigram-spm/tokenizer.model"))};
  mutate_tokenizers(4, 4000, seeds, [](const std::string& bytes) {
    return parse_tokenizer_sentencepiece(bytes, "mutated");
  });
}

}  // namespace
}  // namespace portolan
