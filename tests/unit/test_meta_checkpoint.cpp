// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>

#include "core/error.hpp"
#include "models/checkpoint.hpp"
#include "models/meta_layout.hpp"
#include "models/model_plan.hpp"
#include "tests/unit/file_testing.hpp"

namespace portolan {
namespace {

namespace fs = std::filesystem;
using testing::data_path;
using testing::input_error;
using testing::TemporaryFolder;

/// What shards by PyTorch hold, against the folder that they were made from.
class MetaFolder : public ::testing::TestWithParam<const char*> {
 protected:
  Checkpoint meta_{data_path(std::string("meta/") + GetParam())};
  Checkpoint original_{data_path("models/llama-tiny-mha-bf16")};
};

TEST_P(MetaFolder, HasTheParametersOfTheOriginal) {
  EXPECT_EQ(meta_.format(), CheckpointFormat::meta);
  EXPECT_EQ(original_.format(), CheckpointFormat::hugging_face);
  EXPECT_EQ(meta_.parameters(), original_.parameters());
  EXPECT_EQ(meta_.config().llama().vocab_size, 816) << "from the embedding's shape";
  EXPECT_EQ(meta_.config().llama().dtype, DType::bf16);
  EXPECT_EQ(meta_.unused_tensors(), 1u) << "rope.freqs";
  for (const ParameterShape& parameter : original_.parameters()) {
    std::vector<std::byte> expected(static_cast<std::size_t>(parameter.elements()) * 2);
    std::vector<std::byte> found(expected.size());
    original_.read(parameter.name, expected.data(), DType::bf16);
    meta_.read(parameter.name, found.data(), DType::bf16);
    EXPECT_EQ(found, expected) << parameter.name;
  }
}

TEST_P(MetaFolder, EveryNumberOfRanksReadsItsBlocksAndNothingElse) {
  for (const int ranks : {1, 2, 3, 4}) {
    ParallelLayout layout;
    layout.mesh.tensor = ranks;
    const ModelPlan plan(meta_.config(), layout);
    for (int rank = 0; rank < ranks; ++rank) {
      const std::int64_t before = meta_.bytes_read();
      std::int64_t bytes = 0;
      for (const PlannedParameter& parameter : plan.parameters().parameters()) {
        const ShardRange& range = parameter.ranges[static_cast<std::size_t>(rank)];
        const auto size = static_cast<std::size_t>(range.rows() * range.columns()) * sizeof(float);
        std::vector<std::byte> expected(size);
        std::vector<std::byte> found(size);
        original_.read_block(parameter.name, range.row_begin, range.row_end, range.column_begin,
                             range.column_end, expected.data(), DType::f32);
        meta_.read_block(parameter.name, range.row_begin, range.row_end, range.column_begin,
                         range.column_end, found.data(), DType::f32);
        EXPECT_EQ(found, expected) << parameter.name << " of rank " << rank << " of " << ranks;
        bytes += range.rows() * range.columns() * 2;
      }
      EXPECT_EQ(meta_.bytes_read() - before, bytes);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(, MetaFolder, ::testing::Values("hidden2", "vocabulary4"));

TEST(MetaLayout, InterleavedRowsAreAPermutationWithAnInverse) {
  // Rows 0 to 3 and 4 to 7 of a head of 8 turn together in pairs (0, 4), (1, 5), ...
  const std::vector<std::int64_t> expected{0, 2, 4, 6, 1, 3, 5, 7, 8, 10};
  for (std::size_t row = 0; row < expected.size(); ++row) {
    EXPECT_EQ(interleaved_row(static_cast<std::int64_t>(row), 8), expected[row]);
  }
  for (std::int64_t row = 0; row < 64; ++row) {
    EXPECT_EQ(deinterleaved_row(interleaved_row(row, 16), 16), row);
  }
}

TEST(MetaLayout, OtherNamesAreRefused) {
  EXPECT_EQ(meta_tensor("model.layers.12.mlp.down_proj.weight").name,
            "layers.12.feed_forward.w2.weight");
  for (const char* name : {"", "transformer.wte.weight", "model.layers.", "model.layers.1",
                           "model.layers.1.mlp.down_proj.bias", "mlp.down_proj.weight"}) {
    EXPECT_THROW(static_cast<void>(meta_tensor(name)), UsageError) << name;
  }
}

/// A copy to damage.
class DamagedMetaFolder : public ::testing::Test {
 protected:
  DamagedMetaFolder() { fs::copy(data_path("meta/hidden2"), folder_ / "m"); }

  [[nodiscard]] std::string refusal() const {
    const std::string message = input_error([&] { Checkpoint checkpoint(folder_ / "m"); });
    EXPECT_TRUE(message.starts_with((folder_ / "m").string())) << message;
    return message;
  }
  void expect_refused(std::string_view word) const {
    const std::string message = refusal();
    EXPECT_NE(message.find(word), std::string::npos) << message;
  }
  [[nodiscard]] fs::path file(const std::string& name) const { return folder_ / "m" / name; }
  void set_params(const std::string& text) const { testing::write_file(file("params.json"), text); }

  TemporaryFolder folder_;
};

TEST_F(DamagedMetaFolder, MissingShardsAreNamed) {
  fs::remove(file("consolidated.00.pth"));
  expect_refused("consolidated.00.pth");
  fs::rename(file("consolidated.01.pth"), file("consolidated.00.pth"));
  expect_refused("tok_embeddings");  // half of a model is not a model
  fs::remove(file("consolidated.00.pth"));
  expect_refused("consolidated.00.pth");
}

TEST_F(DamagedMetaFolder, ShardsHaveToFitEachOther) {
  fs::copy_file(data_path("meta/vocabulary4/consolidated.01.pth"), file("consolidated.01.pth"),
                fs::copy_options::overwrite_existing);
  expect_refused("consolidated.01.pth: tensor 'tok_embeddings.weight': expected a shard of");
}

TEST_F(DamagedMetaFolder, ShapesHaveToBeThoseOfTheConfig) {
  set_params(
      R"({"dim": 64, "n_layers": 2, "n_heads": 8, "n_kv_heads": 4, "norm_eps": 1e-6, "vocab_size": -1, "multiple_of": 16})");
  expect_refused("as params.json has it, found [64, 64] in 2 shards");
  set_params(
      R"({"dim": 64, "n_layers": 3, "n_heads": 4, "norm_eps": 1e-6, "vocab_size": 816, "multiple_of": 16})");
  expect_refused("'layers.2.attention_norm.weight'");
  set_params(
      R"({"dim": 64, "n_layers": 2, "n_heads": 4, "norm_eps": 1e-6, "vocab_size": 817, "multiple_of": 16})");
  expect_refused("'tok_embeddings.weight'");
  set_params(
      R"({"dim": 64, "n_layers": 2, "n_heads": 1, "norm_eps": 1e-6, "vocab_size": -1, "multiple_of": 16})");
  expect_refused("whole heads of 64 rows");
}

}  // namespace
}  // namespace portolan
