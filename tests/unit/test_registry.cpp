// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <filesystem>
#include <memory>
#include <string>

#include "core/error.hpp"
#include "models/llama.hpp"
#include "tests/unit/file_testing.hpp"

namespace portolan {
namespace {

using testing::data_path;

class Registry : public ::testing::Test {
 protected:
  std::unique_ptr<Communicator> single_ = make_single_communicator();
  ParallelContext context_{*single_, {}};
  ModelOptions options_{.context = context_, .device = {DeviceKind::serial, 0}};

  [[nodiscard]] std::string message_of(std::string_view architecture, std::string_view variant,
                                       const std::filesystem::path& path,
                                       std::string_view source = "hf") const {
    try {
      static_cast<void>(get_model(architecture, variant, path, source, options_));
    } catch (const UsageError& error) {
      return error.what();
    }
    return "";
  }
};

TEST_F(Registry, MakesModelsByArchitectureAndVariant) {
  for (const char* architecture : {"llama", "gpt_bigcode", "roberta"}) {
    const std::unique_ptr<Model> model = get_model(architecture, "tiny", "", "hf", options_);
    EXPECT_EQ(model->plan().config().architecture, architecture);
    EXPECT_EQ(model->dtype(), DType::f32);
    EXPECT_GT(model->weight_bytes(), 0);
  }
}

TEST_F(Registry, TakesTheConfigOfAFolder) {
  options_.dtype = DType::bf16;
  const auto model = get_model("", "", data_path("models/roberta-tiny"), "hf", options_);
  EXPECT_EQ(model->plan().config().architecture, "roberta");
  EXPECT_EQ(model->maximum_length(), 64);
  EXPECT_EQ(model->dtype(), DType::bf16);
}

TEST_F(Registry, NamesWhatItDoesNotKnow) {
  EXPECT_NE(message_of("gpt9", "tiny", "").find("gpt_bigcode"), std::string::npos);
  EXPECT_NE(message_of("llama", "9b", "").find("13b"), std::string::npos);
  EXPECT_NE(message_of("llama", "7b", "", "onnx").find("onnx"), std::string::npos);
  EXPECT_NE(message_of("llama", "", data_path("models/roberta-tiny")).find("found roberta"),
            std::string::npos);
}

TEST_F(Registry, AnArchitectureOfOnesOwnIsReadBuiltAndListed) {
  ModelArchitecture own = llama_architecture();
  own.name = "own_model";
  own.classes = {"OwnModelForCausalLM"};
  own.variants = {{"small", "own-model-small", {"own_model", preset_config("tiny").llama()}}};
  const auto read = own.read_config;
  own.read_config = [read](const JsonObject& json) {
    return ModelConfig("own_model", read(json).llama());
  };
  register_model(own);
  EXPECT_THROW(register_model(own), UsageError) << "the name is taken";

  const ModelConfig config = preset_config("own-model-small");
  EXPECT_EQ(parse_model_config(config_text(config), "text"), config);
  EXPECT_EQ(get_model("own_model", "small", "", "hf", options_)->plan().config(), config);

  own.name = "other";
  EXPECT_THROW(register_model(own), UsageError) << "the class is taken";
  own.classes = {};
  EXPECT_THROW(register_model(own), UsageError) << "the preset is taken";
  own.variants = {};
  own.make = nullptr;
  EXPECT_THROW(register_model(own), UsageError) << "nothing makes it";
}

}  // namespace
}  // namespace portolan
