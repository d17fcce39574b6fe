// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "core/error.hpp"
#include "core/safetensors.hpp"
#include "core/torch_file.hpp"
#include "models/conversion.hpp"
#include "tests/unit/file_testing.hpp"

namespace portolan {
namespace {

namespace fs = std::filesystem;
using testing::data_path;
using testing::read_file;
using testing::TemporaryFolder;

constexpr const char* kModels[] = {"llama-tiny-gqa", "llama-tiny-mha-bf16", "llama3-tiny-tied",
                                   "mistral-tiny-swa"};

/// Converts into a new folder.
void convert(const fs::path& from, const fs::path& to, const ConversionOptions& options) {
  fs::create_directory(to);
  convert_checkpoint(Checkpoint(from), from, to, options);
}

std::vector<std::byte> bytes_of(const Checkpoint& checkpoint, const std::string& name) {
  const TensorEntry& entry = checkpoint.entry(name);
  const DType dtype = entry.dtype.value();
  std::vector<std::byte> bytes(static_cast<std::size_t>(entry.elements()) * size_of(dtype));
  checkpoint.read(name, bytes.data(), dtype);
  return bytes;
}

void expect_same_weights(const fs::path& a, const fs::path& b) {
  const Checkpoint left(a);
  const Checkpoint right(b);
  ASSERT_EQ(left.parameters(), right.parameters());
  for (const ParameterShape& parameter : left.parameters()) {
    EXPECT_EQ(left.entry(parameter.name).dtype_name, right.entry(parameter.name).dtype_name);
    EXPECT_EQ(bytes_of(left, parameter.name), bytes_of(right, parameter.name)) << parameter.name;
  }
}

class CheckpointConversion : public ::testing::TestWithParam<const char*> {
 protected:
  [[nodiscard]] fs::path model() const { return data_path(std::string("models/") + GetParam()); }
  /// What divides the model: one has a vocabulary of 701.
  [[nodiscard]] std::vector<int> shard_counts() const {
    if (Checkpoint(model()).config().llama().vocab_size % 2 != 0) return {1};
    return {1, 2};
  }
  TemporaryFolder folder_;
};

TEST_P(CheckpointConversion, ToOwnFormatAndBackKeepsEveryBit) {
  convert(model(), folder_ / "own", {.maximum_file_bytes = 100'000});
  convert(folder_ / "own", folder_ / "back", {});
  expect_same_weights(model(), folder_ / "own");
  expect_same_weights(model(), folder_ / "back");
  EXPECT_EQ(read_file(folder_ / "back" / "config.json"), read_file(model() / "config.json"));
}

TEST_P(CheckpointConversion, ToMetasShardsAndBackKeepsEveryBit) {
  for (const int shards : shard_counts()) {
    SCOPED_TRACE(shards);
    const std::string meta = "meta" + std::to_string(shards);
    const std::string back = "back" + std::to_string(shards);
    convert(model(), folder_ / meta, {.format = CheckpointFormat::meta, .shards = shards});
    convert(folder_ / meta, folder_ / back, {});
    expect_same_weights(model(), folder_ / back);
    const LlamaConfig before = Checkpoint(model()).config().llama();
    const LlamaConfig after = Checkpoint(folder_ / back).config().llama();
    EXPECT_EQ(after.tie_word_embeddings, before.tie_word_embeddings);
    EXPECT_EQ(after.rope_scaling, before.rope_scaling);
    EXPECT_EQ(after.rope_theta, before.rope_theta);
    EXPECT_EQ(after.rms_norm_epsilon, before.rms_norm_epsilon);
    EXPECT_EQ(after.sliding_window, before.sliding_window);
  }
}

TEST_P(CheckpointConversion, ReshardingMetasFormatKeepsEveryBit) {
  const int shards = shard_counts().back();
  convert(model(), folder_ / "many", {.format = CheckpointFormat::meta, .shards = shards});
  convert(folder_ / "many", folder_ / "one", {.format = CheckpointFormat::meta});
  expect_same_weights(folder_ / "many", folder_ / "one");
  convert(folder_ / "one", folder_ / "again", {.format = CheckpointFormat::meta, .shards = shards});
  for (const auto& each : fs::directory_iterator(folder_ / "many")) {
    const std::string name = each.path().filename().string();
    EXPECT_EQ(read_file(folder_ / "again" / name), read_file(each.path())) << name;
  }
}

INSTANTIATE_TEST_SUITE_P(, CheckpointConversion, ::testing::ValuesIn(kModels),
                         [](const auto& each) { return testing::identifier(each.param); });

TEST(ConversionFiles, ShardsHoldWhatPyTorchWroteForTheSameModel) {
  const TemporaryFolder folder;
  convert(data_path("models/llama-tiny-mha-bf16"), folder / "meta",
          {.format = CheckpointFormat::meta, .shards = 2});
  for (const char* name : {"consolidated.00.pth", "consolidated.01.pth"}) {
    const TorchFile ours(folder / "meta" / name);
    const TorchFile theirs(data_path(std::string("meta/hidden2/") + name));
    EXPECT_EQ(ours.entries().size() + 1, theirs.entries().size()) << "all but rope.freqs";
    for (const TensorEntry& entry : ours.entries()) {
      const TensorEntry& other = theirs.at(entry.name);
      ASSERT_EQ(entry.shape, other.shape) << entry.name;
      EXPECT_EQ(entry.dtype, other.dtype);
      EXPECT_TRUE(std::ranges::equal(ours.bytes(entry), theirs.bytes(other))) << entry.name;
    }
  }
}

TEST(ConversionFiles, FilesAreNoLargerThanAskedForAndIndexed) {
  const TemporaryFolder folder;
  constexpr std::uint64_t kMost = 50'000;
  convert(data_path("models/llama-tiny-gqa"), folder / "out", {.maximum_file_bytes = kMost});
  const auto index =
      nlohmann::json::parse(read_file(folder / "out" / "model.safetensors.index.json"));
  EXPECT_EQ(index.at("metadata").at("total_size"), 241088 * 4);
  const Checkpoint checkpoint(folder / "out");
  ASSERT_GT(checkpoint.files().size(), 10u);
  for (const auto& file : checkpoint.files()) {
    std::uint64_t bytes = 0;
    for (const TensorEntry& entry : file->entries()) bytes += entry.byte_size();
    EXPECT_TRUE(bytes <= kMost || file->entries().size() == 1) << file->name();
    EXPECT_EQ(dynamic_cast<const SafetensorsFile&>(*file).metadata().at("format"), "pt");
  }
  EXPECT_FALSE(fs::exists(folder / "out" / "model.safetensors"));
}

TEST(ConversionFiles, AnotherDtypeIsRoundedToAndSaidInTheConfig) {
  const TemporaryFolder folder;
  convert(data_path("models/llama-tiny-gqa"), folder / "half", {.dtype = DType::bf16});
  convert(folder / "half", folder / "meta",
          {.format = CheckpointFormat::meta, .dtype = DType::f16, .shards = 2});
  const Checkpoint original(data_path("models/llama-tiny-gqa"));
  const Checkpoint half(folder / "half");
  EXPECT_EQ(half.config().llama().dtype, DType::bf16);
  EXPECT_EQ(Checkpoint(folder / "meta").config().llama().dtype, DType::f16);
  const std::string name = "model.layers.1.self_attn.k_proj.weight";
  const auto count = static_cast<std::size_t>(original.entry(name).elements());
  std::vector<float> exact(count);
  std::vector<float> rounded(count);
  original.read(name, exact.data(), DType::f32);
  half.read(name, rounded.data(), DType::f32);
  for (std::size_t i = 0; i < count; ++i) {
    EXPECT_EQ(rounded[i], to_float(from_float<BFloat16>(exact[i])));
  }
}

TEST(ConversionFiles, CompanionsAreCopiedAndTokenIdsKept) {
  const TemporaryFolder folder;
  fs::copy(data_path("models/llama-tiny-gqa"), folder / "model");
  testing::write_file(folder / "model" / "tokenizer.json", "{}");
  testing::write_file(folder / "model" / "generation_config.json",
                      R"({"bos_token_id": 1, "eos_token_id": [2, 7]})");
  convert(folder / "model", folder / "meta", {.format = CheckpointFormat::meta});
  convert(folder / "meta", folder / "back", {});
  EXPECT_EQ(read_file(folder / "back" / "tokenizer.json"), "{}");
  const LlamaConfig config = Checkpoint(folder / "back").config().llama();
  EXPECT_EQ(config.bos_token_id, 1);
  EXPECT_EQ(config.eos_token_ids, (std::vector<std::int64_t>{2, 7}));
  EXPECT_FALSE(fs::exists(folder / "back" / "expected.safetensors"));
}

TEST(ConversionFiles, WhatTheFormatCannotHoldIsRefusedBeforeAnythingIsWritten) {
  const TemporaryFolder folder;
  const Checkpoint checkpoint(data_path("models/llama-tiny-gqa"));  // two key/value heads
  EXPECT_THROW(convert_checkpoint(checkpoint, data_path("models/llama-tiny-gqa"), folder.path(),
                                  {.format = CheckpointFormat::meta, .shards = 4}),
               UnsupportedError);
  EXPECT_TRUE(folder.names().empty());
}

TEST(ConversionFiles, ProgressEndsAtTheSizeOfTheWeights) {
  const TemporaryFolder folder;
  const fs::path model = data_path("models/llama-tiny-gqa");
  std::uint64_t last = 0;
  std::uint64_t announced = 0;
  convert_checkpoint(Checkpoint(model), model, folder.path(), {},
                     [&](std::uint64_t done, std::uint64_t all) {
                       EXPECT_GT(done, last);
                       last = done;
                       announced = all;
                     });
  EXPECT_EQ(last, 241088u * 4);
  EXPECT_EQ(announced, last);
}

}  // namespace
}  // namespace portolan
