// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <numeric>
#include <span>

#include "core/safetensors_writer.hpp"
#include "core/torch_file.hpp"
#include "models/checkpoint.hpp"
#include "tests/unit/file_testing.hpp"

namespace portolan {
namespace {

using testing::input_error;
using testing::TemporaryFolder;

/// Four query and two key/value heads of 4 features.
LlamaConfig small_config() {
  LlamaConfig config = preset_config("tiny").llama();
  config.hidden_size = 16;
  config.head_dim = 4;
  config.intermediate_size = 6;
  config.layers = 1;
  config.vocab_size = 5;
  return config;
}

/// Each row of a matrix holds the value that `row_value` gives it.
class FusedFolder {
 public:
  explicit FusedFolder(const LlamaConfig& config = small_config()) : config_(config) {
    for (const ParameterShape& parameter : parameter_shapes(config)) {
      tensors_[parameter.name] = std::vector<float>(static_cast<std::size_t>(parameter.shape[0]));
      widths_[parameter.name] = parameter.shape.size() > 1 ? parameter.shape[1] : 0;
    }
  }
  void remove(const std::string& name) { tensors_.erase(name); }
  void add(const std::string& name, std::vector<float> rows) {
    tensors_[name] = std::move(rows);
    widths_[name] = name.ends_with(".bias") ? 0 : config_.hidden_size;
  }

  void write(const std::filesystem::path& folder, bool torch = false) const {
    testing::write_file(folder / "config.json", config_text(config_));
    std::vector<TensorDescription> tensors;
    for (const auto& [name, rows] : tensors_) {
      std::vector<std::int64_t> shape{std::ssize(rows)};
      if (widths_.at(name) > 0) shape.push_back(widths_.at(name));
      tensors.push_back({name, DType::f32, shape});
    }
    const auto write_all = [&](auto append) {
      for (const auto& [name, rows] : tensors_) {
        for (const float value : rows) {
          const std::vector<float> row(
              static_cast<std::size_t>(std::max<std::int64_t>(1, widths_.at(name))), value);
          append(name, std::as_bytes(std::span(row)));
        }
      }
    };
    if (torch) {
      TorchFileWriter writer(folder / "pytorch_model.bin", tensors);
      write_all([&](const std::string&, auto bytes) { writer.append(bytes); });
      writer.finish();
    } else {
      SafetensorsWriter writer(folder / "model.safetensors", tensors);
      write_all([&](const std::string& name, auto bytes) { writer.append(name, bytes); });
      writer.finish();
    }
  }

 private:
  LlamaConfig config_;
  std::map<std::string, std::vector<float>> tensors_;
  std::map<std::string, std::int64_t> widths_;
};

std::vector<float> counted(std::size_t rows) {
  std::vector<float> values(rows);
  std::iota(values.begin(), values.end(), 0.0F);
  return values;
}

const std::string kBlock = "model.layers.0.";

/// The value of each row of a parameter.
std::vector<float> rows_of(const Checkpoint& checkpoint, const std::string& name) {
  const TensorEntry& entry = checkpoint.entry(name);
  std::vector<float> values(static_cast<std::size_t>(entry.elements()));
  checkpoint.read(name, values.data(), DType::f32);
  std::vector<float> rows;
  for (std::int64_t row = 0; row < entry.rows(); ++row) {
    rows.push_back(values[static_cast<std::size_t>(row * entry.columns())]);
  }
  return rows;
}

std::vector<float> range(float begin, float end) {
  std::vector<float> values(static_cast<std::size_t>(end - begin));
  std::iota(values.begin(), values.end(), begin);
  return values;
}

void remove_attention(FusedFolder& model) {
  for (const char* name : {"q_proj", "k_proj", "v_proj"}) {
    model.remove(kBlock + "self_attn." + name + ".weight");
    model.remove(kBlock + "self_attn." + name + ".bias");
  }
}

TEST(FusedWeights, StackedQueriesKeysAndValuesAreTakenApart) {
  for (const char* name : {"self_attn.qkv_proj", "self_attn.Wqkv", "attn.Wqkv"}) {
    const TemporaryFolder folder;
    FusedFolder model;
    remove_attention(model);
    model.add(kBlock + name + ".weight", counted(32));
    model.write(folder.path());
    const Checkpoint checkpoint(folder.path());
    EXPECT_EQ(rows_of(checkpoint, kBlock + "self_attn.q_proj.weight"), range(0, 16));
    EXPECT_EQ(rows_of(checkpoint, kBlock + "self_attn.k_proj.weight"), range(16, 24));
    EXPECT_EQ(rows_of(checkpoint, kBlock + "self_attn.v_proj.weight"), range(24, 32));
    EXPECT_EQ(checkpoint.unused_tensors(), 0u);
  }
}

TEST(FusedWeights, RowsGroupedByKeyValueHeadAreTakenApart) {
  const TemporaryFolder folder;
  FusedFolder model;
  remove_attention(model);
  // Each of two groups: two query heads, the key head, the value head, of 4 rows each.
  model.add(kBlock + "self_attn.query_key_value.weight", counted(32));
  model.write(folder.path());
  const Checkpoint checkpoint(folder.path());
  std::vector<float> queries = range(0, 8);
  for (const float value : range(16, 24)) queries.push_back(value);
  EXPECT_EQ(rows_of(checkpoint, kBlock + "self_attn.q_proj.weight"), queries);
  EXPECT_EQ(rows_of(checkpoint, kBlock + "self_attn.k_proj.weight"),
            (std::vector<float>{8, 9, 10, 11, 24, 25, 26, 27}));
  EXPECT_EQ(rows_of(checkpoint, kBlock + "self_attn.v_proj.weight"),
            (std::vector<float>{12, 13, 14, 15, 28, 29, 30, 31}));

  // A slice across the groups reads its own bytes.
  const std::int64_t before = checkpoint.bytes_read();
  std::vector<float> slice(6 * 2);
  checkpoint.read_block(kBlock + "self_attn.q_proj.weight", 5, 11, 3, 5, slice.data(), DType::f32);
  EXPECT_EQ(slice, (std::vector<float>{5, 5, 6, 6, 7, 7, 16, 16, 17, 17, 18, 18}));
  EXPECT_EQ(checkpoint.bytes_read() - before, 6 * 2 * 4);
}

TEST(FusedWeights, GateAndUpAreTakenApartFromPyTorchFilesToo) {
  const TemporaryFolder folder;
  FusedFolder model;
  model.remove(kBlock + "mlp.gate_proj.weight");
  model.remove(kBlock + "mlp.up_proj.weight");
  model.add(kBlock + "mlp.gate_up_proj.weight", counted(12));
  model.write(folder.path(), true);
  const Checkpoint checkpoint(folder.path());
  EXPECT_EQ(rows_of(checkpoint, kBlock + "mlp.gate_proj.weight"), range(0, 6));
  EXPECT_EQ(rows_of(checkpoint, kBlock + "mlp.up_proj.weight"), range(6, 12));
}

TEST(FusedWeights, BiasesAreTakenApartAsTheirMatrices) {
  LlamaConfig config = small_config();
  config.attention_bias = config.mlp_bias = true;
  const TemporaryFolder folder;
  FusedFolder model(config);
  remove_attention(model);
  for (const char* name : {"gate_proj", "up_proj"}) {
    model.remove(kBlock + "mlp." + name + ".weight");
    model.remove(kBlock + "mlp." + name + ".bias");
  }
  for (const char* kind : {".weight", ".bias"}) {
    model.add(kBlock + "self_attn.query_key_value" + kind, counted(32));
    model.add(kBlock + "mlp.gate_up_proj" + kind, counted(12));
  }
  model.write(folder.path());
  const Checkpoint checkpoint(folder.path());
  EXPECT_EQ(checkpoint.unused_tensors(), 0u);
  EXPECT_EQ(rows_of(checkpoint, kBlock + "self_attn.k_proj.bias"),
            (std::vector<float>{8, 9, 10, 11, 24, 25, 26, 27}));
  EXPECT_EQ(rows_of(checkpoint, kBlock + "self_attn.v_proj.bias"),
            (std::vector<float>{12, 13, 14, 15, 28, 29, 30, 31}));
  EXPECT_EQ(rows_of(checkpoint, kBlock + "mlp.up_proj.bias"), range(6, 12));
}

TEST(FusedWeights, OtherShapesAreRefused) {
  const TemporaryFolder folder;
  FusedFolder model;
  remove_attention(model);
  model.add(kBlock + "self_attn.qkv_proj.weight", counted(31));
  model.write(folder.path());
  const std::string message = input_error([&] { Checkpoint checkpoint(folder.path()); });
  EXPECT_NE(message.find("self_attn.qkv_proj.weight': expected shape [32, 16]"), std::string::npos)
      << message;
}

}  // namespace
}  // namespace portolan
