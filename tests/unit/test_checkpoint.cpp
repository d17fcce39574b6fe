// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <nlohmann/json.hpp>
#include <span>

#include "core/convert.hpp"
#include "core/error.hpp"
#include "core/safetensors.hpp"
#include "core/safetensors_writer.hpp"
#include "models/checkpoint.hpp"
#include "tests/unit/file_testing.hpp"

namespace portolan {
namespace {

using testing::data_path;
using testing::input_error;
using testing::read_file;
using testing::safetensors_bytes;
using testing::TemporaryFolder;
using testing::write_file;

class MalformedModel : public ::testing::TestWithParam<testing::BadCase> {};

TEST_P(MalformedModel, IsRefusedWithOneLineThatNamesFolderAndFile) {
  const auto path = data_path("bad/" + GetParam().path);
  const std::string message = input_error([&] { Checkpoint checkpoint(path); });
  EXPECT_TRUE(message.starts_with(path.string())) << message;
  EXPECT_NE(message.find("model.safetensors"), std::string::npos)
      << "unless a shard is meant: " << (message.find("model-0000") != std::string::npos)
      << message;
}

std::vector<testing::BadCase> cases_about_weights_or_index() {
  std::vector<testing::BadCase> cases = testing::bad_cases("model");
  std::erase_if(cases, [](const testing::BadCase& each) {
    return each.path.ends_with("index_absent_shard");
  });
  return cases;
}

INSTANTIATE_TEST_SUITE_P(, MalformedModel, ::testing::ValuesIn(cases_about_weights_or_index()),
                         [](const auto& each) { return testing::identifier(each.param.path); });

std::string refusal(const std::string& folder) {
  return input_error([&] { Checkpoint checkpoint(data_path(folder)); });
}

TEST(Checkpoint, AShardThatIsNotThereIsNamed) {
  EXPECT_NE(refusal("bad/model/index_absent_shard").find("model-00002-of-00002.safetensors"),
            std::string::npos);
}

TEST(Checkpoint, MessagesNameTheTensorAndWhatIsWrongWithIt) {
  EXPECT_NE(refusal("bad/model/wrong_shape").find("o_proj.weight': expected shape [8, 8]"),
            std::string::npos);
  EXPECT_NE(refusal("bad/model/integer_weights").find("up_proj.weight': expected dtype"),
            std::string::npos);
  EXPECT_NE(refusal("bad/model/missing_lm_head").find("'lm_head.weight'"), std::string::npos);
  EXPECT_NE(refusal("bad/model/index_parent_path").find("in the same folder"), std::string::npos);
  EXPECT_NE(refusal("bad/model/index_absolute_path").find("/dev/zero"), std::string::npos);
  EXPECT_NE(refusal("bad/model/index_omits_tensor").find("weight_map.lm_head.weight"),
            std::string::npos);
}

TEST(Checkpoint, AFolderThatIsNoneOrHasNoConfigIsRefused) {
  const TemporaryFolder folder;
  EXPECT_NE(input_error([&] { Checkpoint checkpoint(folder.path()); }).find("config.json"),
            std::string::npos);
  EXPECT_FALSE(input_error([&] { Checkpoint checkpoint(folder / "absent"); }).empty());
  write_file(folder / "file", "x");
  EXPECT_FALSE(input_error([&] { Checkpoint checkpoint(folder / "file"); }).empty());
}

TEST(Checkpoint, TheSoundModelLoads) {
  const Checkpoint checkpoint(data_path("bad/controls/model_ok"));
  EXPECT_EQ(checkpoint.config().llama().hidden_size, 8);
  EXPECT_EQ(checkpoint.parameters().size(), 12u);
  EXPECT_EQ(checkpoint.bytes_read(), 0);
}

TEST(Checkpoint, TensorsTheArchitectureDoesNotUseAreIgnored) {
  const Checkpoint checkpoint(data_path("bad/controls/model_extra_tensor"));
  EXPECT_EQ(checkpoint.parameters().size(), 12u);
  EXPECT_NE(checkpoint.files().front()->find("model.layers.0.self_attn.rotary_emb.inv_freq"),
            nullptr);
  EXPECT_FALSE(input_error([&] {
                 static_cast<void>(
                     checkpoint.entry("model.layers.0.self_attn.rotary_emb.inv_freq"));
               }).empty());
}

class SoundModels : public ::testing::TestWithParam<std::pair<const char*, std::int64_t>> {};

TEST_P(SoundModels, HoldTheParametersThatTheirConfigAsksFor) {
  const Checkpoint checkpoint(data_path(std::string("models/") + GetParam().first));
  std::int64_t elements = 0;
  for (const ParameterShape& parameter : checkpoint.parameters()) {
    EXPECT_EQ(checkpoint.entry(parameter.name).shape, parameter.shape);
    elements += parameter.elements();
  }
  EXPECT_EQ(elements, GetParam().second);
  EXPECT_EQ(parameter_count(checkpoint.config()), GetParam().second);
}

INSTANTIATE_TEST_SUITE_P(, SoundModels,
                         ::testing::Values(std::pair("llama-tiny-gqa", 241088),
                                           std::pair("llama-tiny-mha-bf16", 205120),
                                           std::pair("llama3-tiny-tied", 256416),
                                           std::pair("mistral-tiny-swa", 176064)),
                         [](const auto& each) { return testing::identifier(each.param.first); });

TEST(Checkpoint, ConfigsOfPublishedAndOfTransformers5StyleAreUnderstood) {
  const Checkpoint tied(data_path("models/llama3-tiny-tied"));
  const LlamaConfig& llama3 = tied.config().llama();
  EXPECT_TRUE(llama3.tie_word_embeddings);
  EXPECT_EQ(llama3.head_dim, 32);
  EXPECT_EQ(llama3.rope_theta, 500000.0);
  EXPECT_EQ(std::get<Llama3RopeScaling>(llama3.rope_scaling).original_max_position_embeddings, 32);
  EXPECT_EQ(llama3.eos_token_ids, (std::vector<std::int64_t>{645, 318}));
  const Checkpoint sharded(data_path("models/llama-tiny-mha-bf16"));
  EXPECT_EQ(sharded.config().llama().dtype, DType::bf16);
  EXPECT_EQ(sharded.config().llama().rope_theta, 10000.0);
  EXPECT_EQ(sharded.files().size(), 3u);
  EXPECT_EQ(Checkpoint(data_path("models/mistral-tiny-swa")).config().llama().sliding_window, 8);
}

TEST(Checkpoint, EveryWidthOfShardsReassemblesTheWholeParameter) {
  const Checkpoint checkpoint(data_path("models/llama-tiny-mha-bf16"));
  const std::string name = "model.layers.1.mlp.down_proj.weight";  // [64, 176]
  std::vector<float> whole(64 * 176);
  checkpoint.read(name, whole.data(), DType::f32);
  for (const std::int64_t ranks : {1, 2, 3, 7}) {
    std::vector<float> joined(64 * 176, -1.0F);
    for (std::int64_t rank = 0; rank < ranks; ++rank) {
      const std::int64_t begin = 176 * rank / ranks;
      const std::int64_t end = 176 * (rank + 1) / ranks;
      std::vector<float> shard(static_cast<std::size_t>(64 * (end - begin)));
      checkpoint.read_block(name, 0, 64, begin, end, shard.data(), DType::f32);
      for (std::int64_t row = 0; row < 64; ++row) {
        std::copy_n(shard.begin() + row * (end - begin), end - begin,
                    joined.begin() + row * 176 + begin);
      }
    }
    EXPECT_EQ(joined, whole) << ranks;
  }
}

TEST(Checkpoint, VectorsAreColumnsSoThatRowsShardThem) {
  const Checkpoint checkpoint(data_path("models/llama-tiny-gqa"));
  std::vector<float> whole(64);
  checkpoint.read("model.norm.weight", whole.data(), DType::f32);
  std::vector<float> part(24);
  checkpoint.read_block("model.norm.weight", 40, 64, 0, 1, part.data(), DType::f32);
  EXPECT_EQ(part, std::vector<float>(whole.begin() + 40, whole.end()));
}

TEST(Checkpoint, BFloat16WeightsWidenToTheBitsInTheFile) {
  const Checkpoint checkpoint(data_path("models/llama-tiny-mha-bf16"));
  const std::string name = "lm_head.weight";
  const SafetensorsFile file(
      data_path("models/llama-tiny-mha-bf16/model-00003-of-00003.safetensors"));
  const auto bytes = file.bytes(file.at(name));
  std::vector<float> found(816 * 64);
  checkpoint.read(name, found.data(), DType::f32);
  for (std::size_t i = 0; i < found.size(); ++i) {
    std::uint32_t bits = 0;
    std::memcpy(&bits, &found[i], 4);
    std::uint16_t stored = 0;
    std::memcpy(&stored, bytes.data() + 2 * i, 2);
    ASSERT_EQ(bits, static_cast<std::uint32_t>(stored) << 16) << i;
  }
}

TEST(Checkpoint, CountsTheBytesOfWhatWasReadAcrossShards) {
  const Checkpoint checkpoint(data_path("models/llama-tiny-mha-bf16"));
  std::vector<float> out(816 * 64);
  checkpoint.read_block("lm_head.weight", 0, 408, 0, 64, out.data(), DType::f32);
  checkpoint.read_block("model.embed_tokens.weight", 408, 816, 0, 64, out.data(), DType::f32);
  checkpoint.read("model.norm.weight", out.data(), DType::f32);
  EXPECT_EQ(checkpoint.bytes_read(), 2 * 408 * 64 * 2 + 64 * 2);
}

TEST(Checkpoint, SmallFloatsAreRefusedForLoadingAndListedOnRequest) {
  const TemporaryFolder folder;
  std::string config = read_file(data_path("bad/controls/config_ok.json"));
  write_file(folder / "config.json", config);
  std::string header = "{";
  std::int64_t offset = 0;
  for (const ParameterShape& parameter : parameter_shapes(parse_model_config(config, "c"))) {
    if (header.size() > 1) header += ',';
    header += fmt::format(R"("{}":{{"dtype":"F8_E4M3","shape":[{}],"data_offsets":[{},{}]}})",
                          parameter.name, fmt::join(parameter.shape, ","), offset,
                          offset + parameter.elements());
    offset += parameter.elements();
  }
  write_file(folder / "model.safetensors",
             safetensors_bytes(header + "}", std::string(static_cast<std::size_t>(offset), '\0')));
  EXPECT_NE(input_error([&] { Checkpoint checkpoint(folder.path()); }).find("F8_E4M3"),
            std::string::npos);
  const Checkpoint listed(folder.path(), Checkpoint::UnknownDTypes::list);
  EXPECT_EQ(listed.entry("lm_head.weight").dtype_name, "F8_E4M3");
  std::vector<float> out(128);
  EXPECT_THROW(listed.read("lm_head.weight", out.data(), DType::f32), UnsupportedError);
}

/// A copy of a folder of one file in which each tensor has the name that `rename` gives it.
void copy_renamed(const std::filesystem::path& from, const std::filesystem::path& to,
                  const std::function<std::string(const std::string&)>& rename) {
  write_file(to / "config.json", read_file(from / "config.json"));
  const SafetensorsFile file(from / "model.safetensors");
  std::vector<SafetensorsTensor> tensors;
  for (const SafetensorsEntry& entry : file.entries()) {
    tensors.push_back({rename(entry.name), *entry.dtype, entry.shape});
  }
  SafetensorsWriter writer(to / "model.safetensors", tensors);
  for (const SafetensorsEntry& entry : file.entries()) {
    writer.append(rename(entry.name), file.bytes(entry));
  }
  writer.finish();
}

std::vector<float> values_of(const Checkpoint& checkpoint, const std::string& parameter) {
  std::vector<float> values(static_cast<std::size_t>(checkpoint.entry(parameter).elements()));
  checkpoint.read(parameter, values.data(), DType::f32);
  return values;
}

/// Files that name tensors otherwise, as others write them.
struct Renamed {
  const char* model;
  std::vector<std::pair<std::string, std::string>> endings;
};

TEST(Checkpoint, ParametersAreFoundByTheOtherNamesThatFilesGiveThem) {
  for (const auto& [model, endings] :
       {// The first files of BERT, which are still the ones in use.
        Renamed{
            "bert-tiny",
            {{".LayerNorm.weight", ".LayerNorm.gamma"}, {".LayerNorm.bias", ".LayerNorm.beta"}}},
        // Of tied tensors the one whose name comes first.
        Renamed{"llama3-tiny-tied", {{"model.embed_tokens.weight", "lm_head.weight"}}},
        Renamed{"gpt-bigcode-tiny", {{"transformer.wte.weight", "lm_head.weight"}}},
        Renamed{"roberta-tiny",
                {{"roberta.embeddings.word_embeddings.weight", "lm_head.decoder.weight"},
                 {"lm_head.bias", "lm_head.decoder.bias"}}}}) {
    SCOPED_TRACE(model);
    const TemporaryFolder folder;
    int renamed = 0;
    copy_renamed(data_path(std::string("models/") + model), folder.path(), [&](std::string name) {
      for (const auto& [now, then] : endings) {
        if (!name.ends_with(now)) continue;
        ++renamed;
        return name.replace(name.size() - now.size(), now.size(), then);
      }
      return name;
    });
    EXPECT_GE(renamed, 1);
    const Checkpoint source(data_path(std::string("models/") + model));
    const Checkpoint found(folder.path());
    EXPECT_EQ(found.unused_tensors(), source.unused_tensors());
    for (const ParameterShape& parameter : source.parameters()) {
      EXPECT_EQ(values_of(found, parameter.name), values_of(source, parameter.name))
          << parameter.name;
    }
  }
}

TEST(Checkpoint, QuantizedWeightsAreRefusedByTheNameOfTheirMethod) {
  const TemporaryFolder folder;
  copy_renamed(data_path("bad/controls/model_ok"), folder.path(), [](const std::string& name) {
    return name.ends_with("q_proj.weight") ? name.substr(0, name.size() - 6) + "qweight" : name;
  });
  EXPECT_NE(input_error([&] { Checkpoint checkpoint(folder.path()); }).find("model.safetensors"),
            std::string::npos);
  nlohmann::json config = nlohmann::json::parse(read_file(folder / "config.json"));
  config["quantization_config"] = {{"quant_method", "gptq"}, {"bits", 4}};
  write_file(folder / "config.json", config.dump());
  const std::string message = input_error([&] { Checkpoint checkpoint(folder.path()); });
  EXPECT_NE(message.find("'quantization_config'"), std::string::npos) << message;
  EXPECT_NE(message.find("quantized by gptq"), std::string::npos) << message;
}

/// Heads that are not tied to the embedding are not tied to the other bias either.
TEST(Checkpoint, AnUntiedHeadOfAnEncoderHasItsOwnBias) {
  const ModelConfig config = [] {
    auto roberta = preset_config("roberta-tiny").as<RobertaConfig>();
    roberta.tie_word_embeddings = false;
    roberta.layers = 1;
    return ModelConfig(roberta);
  }();
  for (const bool has_both : {true, false}) {
    const TemporaryFolder folder;
    write_file(folder / "config.json", config_text(config));
    std::vector<SafetensorsTensor> tensors;
    for (const ParameterShape& parameter : parameter_shapes(config)) {
      tensors.push_back({parameter.name, DType::f32, parameter.shape});
    }
    if (has_both) {
      tensors.push_back({"lm_head.bias", DType::f32, {256}});
    } else {
      std::ranges::find(tensors, "lm_head.decoder.bias", &SafetensorsTensor::name)->name =
          "lm_head.bias";
    }
    SafetensorsWriter writer(folder / "model.safetensors", tensors);
    for (const SafetensorsTensor& tensor : tensors) {
      const std::vector<float> values(
          static_cast<std::size_t>(ParameterShape{"", tensor.shape}.elements()),
          tensor.name.ends_with("decoder.bias") ? 2.0F : 1.0F);
      writer.append(tensor.name, std::as_bytes(std::span(values)));
    }
    writer.finish();
    const Checkpoint checkpoint(folder.path());
    EXPECT_EQ(values_of(checkpoint, "lm_head.decoder.bias"),
              std::vector<float>(256, has_both ? 2.0F : 1.0F));
  }
}

TEST(Checkpoint, FilesMayBeLinksAsInDownloadCaches) {
  const TemporaryFolder folder;
  for (const char* name : {"config.json", "model.safetensors"}) {
    std::filesystem::create_symlink(data_path(std::string("bad/controls/model_ok/") + name),
                                    folder / name);
  }
  EXPECT_NO_THROW(Checkpoint checkpoint(folder.path()));
}

TEST(CheckpointIndex, ShardNamesMustBePlainFileNames) {
  const TemporaryFolder folder;
  for (const std::string name : {"", ".", "..", "a/b", "/a", "../a", "a\\\\b", "a\\u0000b"}) {
    write_file(folder / "i.json", R"({"weight_map": {"x": ")" + name + R"("}})");
    EXPECT_FALSE(
        input_error([&] { static_cast<void>(read_checkpoint_index(folder / "i.json")); }).empty())
        << name;
  }
  write_file(folder / "i.json", R"({"weight_map": {"x": "..a", "b": "A b"}})");
  const CheckpointIndex index = read_checkpoint_index(folder / "i.json");
  EXPECT_EQ(index.files, (std::vector<std::string>{"..a", "A b"}));
  EXPECT_EQ(index.weight_map.at("x"), 0u);
}

}  // namespace
}  // namespace portolan
