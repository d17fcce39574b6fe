// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "core/error.hpp"
#include "models/inspect.hpp"
#include "tests/unit/file_testing.hpp"

namespace portolan {
namespace {

using testing::data_path;
using testing::input_error;
using testing::read_file;
using testing::TemporaryFolder;
using testing::write_file;

TEST(Inspect, EveryMalformedInputIsRefusedWithOneLineThatStartsWithThePathAsGiven) {
  for (const char* kind : {"safetensors", "config", "model", "tokenizer"}) {
    for (const testing::BadCase& each : testing::bad_cases(kind)) {
      const auto path = data_path("bad/" + each.path);
      const std::string message = input_error([&] { static_cast<void>(inspect(path)); });
      EXPECT_TRUE(message.starts_with(path.string())) << message;
    }
  }
}

TEST(Inspect, EveryControlIsSound) {
  for (const auto& entry : std::filesystem::directory_iterator(data_path("bad/controls"))) {
    EXPECT_NO_THROW(static_cast<void>(inspect(entry.path()))) << entry.path();
  }
}

TEST(Inspect, AModelFolderIsCountedByDtypeAndFile) {
  const InspectReport report = inspect(data_path("models/llama-tiny-mha-bf16"));
  EXPECT_EQ(report.json.at("kind"), "model");
  EXPECT_EQ(report.json.at("architecture"), "llama");
  EXPECT_EQ(report.json.at("parameters"), 205120);
  EXPECT_EQ(report.json.at("bytes"), 410240);
  EXPECT_EQ(report.json.at("dtypes").at("BF16").at("tensors"), 21);
  EXPECT_EQ(report.json.at("files").size(), 3u);
  EXPECT_EQ(report.json.at("files")[0].at("name"), "model-00001-of-00003.safetensors");
  EXPECT_EQ(report.json.at("unused_tensors"), 0);
  ASSERT_TRUE(report.config.has_value());
  EXPECT_EQ(parameter_count(*report.config), 205120);
}

TEST(Inspect, TensorsOutsideTheArchitectureAreCountedAsUnused) {
  EXPECT_EQ(inspect(data_path("bad/controls/model_extra_tensor")).json.at("unused_tensors"), 1);
}

TEST(Inspect, AConfigAloneGivesItsParameters) {
  const InspectReport report = inspect(data_path("models/llama3-tiny-tied/config.json"));
  EXPECT_EQ(report.json.at("kind"), "config");
  EXPECT_EQ(report.json.at("parameters"), 256416);
  EXPECT_EQ(report.json.at("config").at("rope_scaling").at("kind"), "llama3");
}

TEST(Inspect, ASafetensorsFileListsItsTensorsWithAllDtypes) {
  const InspectReport report = inspect(data_path("bad/controls/all_dtypes.safetensors"));
  EXPECT_EQ(report.json.at("kind"), "safetensors");
  EXPECT_EQ(report.json.at("tensors").size(), 10u);
  EXPECT_EQ(report.json.at("dtypes").at("BOOL").at("elements"), 3);
  EXPECT_FALSE(report.config.has_value());
}

TEST(Inspect, AnIndexIsCheckedAgainstItsFiles) {
  const InspectReport report =
      inspect(data_path("models/llama-tiny-mha-bf16/model.safetensors.index.json"));
  EXPECT_EQ(report.json.at("kind"), "index");
  EXPECT_EQ(report.json.at("tensors"), 21);
  const auto bad = data_path("bad/model/index_wrong_shard/model.safetensors.index.json");
  EXPECT_FALSE(input_error([&] { static_cast<void>(inspect(bad)); }).empty());
}

TEST(Inspect, ATokenizerIsDescribed) {
  const InspectReport report = inspect(data_path("tokenizers/llama2-spm/tokenizer.json"));
  EXPECT_EQ(report.json.at("kind"), "tokenizer");
  EXPECT_EQ(report.json.at("format"), "tokenizer.json");
  EXPECT_EQ(report.json.at("tokens"), 800);
  EXPECT_EQ(report.json.at("bos"), (nlohmann::ordered_json{{"id", 1}, {"token", "<s>"}}));
  EXPECT_TRUE(report.json.at("mask").is_null());
  const InspectReport pieces = inspect(data_path("tokenizers/llama2-spm/tokenizer.model"));
  EXPECT_EQ(pieces.json.at("format"), "SentencePiece");
  EXPECT_EQ(pieces.json.at("tokens"), 800);
}

TEST(Inspect, AModelFolderSaysWhatItsTokenizerIs) {
  EXPECT_TRUE(inspect(data_path("bad/controls/model_ok")).json.at("tokenizer").is_null());
  const TemporaryFolder folder;
  for (const char* name : {"config.json", "model.safetensors"}) {
    write_file(folder / name, read_file(data_path("bad/controls/model_ok") / name));
  }
  const auto pieces = read_file(data_path("tokenizers/llama2-spm/tokenizer.model"));
  write_file(folder / "tokenizer.model", pieces);
  EXPECT_EQ(inspect(folder.path()).json.at("tokenizer").at("format"), "SentencePiece");
  const std::string whole = (folder / "tokenizer.model").string();
  write_file(folder / "tokenizer.model", pieces.substr(0, 100));
  const std::string message = input_error([&] { static_cast<void>(inspect(folder.path())); });
  EXPECT_TRUE(message.starts_with(whole)) << message;
}

TEST(Inspect, WithoutATellingNameTheContentDecides) {
  const TemporaryFolder folder;
  write_file(folder / "a", read_file(data_path("bad/controls/minimal.safetensors")));
  write_file(folder / "b", read_file(data_path("bad/controls/config_ok.json")));
  EXPECT_EQ(inspect(folder / "a").json.at("kind"), "safetensors");
  EXPECT_EQ(inspect(folder / "b").json.at("kind"), "config");
}

TEST(Inspect, OtherKindsOfFilesAreUnsupportedAndAbsentOnesAreErrors) {
  const TemporaryFolder folder;
  write_file(folder / "notes.txt", "hello, this is text");
  write_file(folder / "empty", "");
  for (const char* name : {"notes.txt", "empty"}) {
    try {
      static_cast<void>(inspect(folder / name));
      ADD_FAILURE() << name << " was accepted";
    } catch (const UnsupportedError& error) {
      EXPECT_EQ(error.exit_code(), 2);
      EXPECT_NE(std::string(error.what()).find("unsupported kind"), std::string::npos);
    }
  }
  EXPECT_FALSE(input_error([&] { static_cast<void>(inspect(folder / "absent")); }).empty());
}

TEST(Inspect, TheTextHoldsWhatTheDocumentHoldsAndWhatCallersAdd) {
  InspectReport report = inspect(data_path("models/llama-tiny-mha-bf16"));
  report.json["memory_per_rank"] = {{"allocated", 12345}};
  const std::string text = report.text();
  for (const char* word : {"llama", "205120", "BF16", "model-00002-of-00003.safetensors", "12345",
                           "sliding_window", "none"}) {
    EXPECT_NE(text.find(word), std::string::npos) << word << " is missing in\n" << text;
  }
  EXPECT_EQ(text.back(), '\n');
  const std::string escaped = inspect(data_path("bad/controls/escaped_name.safetensors")).text();
  EXPECT_NE(escaped.find("n\xc3\xa4me\\x0a"), std::string::npos) << escaped;
}

}  // namespace
}  // namespace portolan
