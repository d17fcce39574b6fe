// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "core/error.hpp"
#include "models/meta_config.hpp"
#include "tests/unit/file_testing.hpp"

namespace portolan {
namespace {

LlamaConfig parse(const std::string& text) { return parse_meta_config(text, "params.json"); }

TEST(MetaConfig, PublishedFilesGiveThePublishedSizes) {
  const LlamaConfig llama1 = parse(
      R"({"dim": 4096, "multiple_of": 256, "n_heads": 32, "n_layers": 32, "norm_eps": 1e-06, "vocab_size": -1})");
  EXPECT_EQ(llama1.intermediate_size, 11008);
  EXPECT_EQ(llama1.kv_heads, 32);
  EXPECT_EQ(llama1.vocab_size, 0) << "the tokenizer's";
  EXPECT_EQ(llama1.rope_theta, 10000.0);
  EXPECT_EQ(llama1.max_position_embeddings, 2048);

  const LlamaConfig llama2_70b = parse(
      R"({"dim": 8192, "multiple_of": 4096, "ffn_dim_multiplier": 1.3, "n_heads": 64, "n_kv_heads": 8, "n_layers": 80, "norm_eps": 1e-05, "vocab_size": -1})");
  EXPECT_EQ(llama2_70b.intermediate_size, 28672);
  EXPECT_EQ(llama2_70b.kv_heads, 8);
  EXPECT_EQ(llama2_70b.max_position_embeddings, 4096);

  const LlamaConfig llama31_8b = parse(
      R"({"dim": 4096, "n_layers": 32, "n_heads": 32, "n_kv_heads": 8, "vocab_size": 128256, "ffn_dim_multiplier": 1.3, "multiple_of": 1024, "norm_eps": 1e-05, "rope_theta": 500000.0, "use_scaled_rope": true})");
  EXPECT_EQ(llama31_8b.intermediate_size, 14336);
  EXPECT_EQ(llama31_8b.vocab_size, 128256);
  EXPECT_EQ(llama31_8b.rope_scaling, RopeScaling(Llama3RopeScaling{8.0, 1.0, 4.0, 8192}));

  const LlamaConfig mistral = parse(
      R"({"dim": 4096, "n_layers": 32, "head_dim": 128, "hidden_dim": 14336, "n_heads": 32, "n_kv_heads": 8, "norm_eps": 1e-05, "sliding_window": 4096, "vocab_size": 32000})");
  EXPECT_EQ(mistral.intermediate_size, 14336);
  EXPECT_EQ(mistral.sliding_window, 4096);
}

TEST(MetaConfig, WhatIsWrittenIsReadBack) {
  for (const std::string_view preset : preset_names()) {
    const ModelConfig model = preset_config(preset);
    if (model.architecture != "llama") continue;
    const LlamaConfig& config = model.llama();
    const LlamaConfig read = parse(meta_config_text(config));
    EXPECT_EQ(read.intermediate_size, config.intermediate_size) << preset;
    EXPECT_EQ(parameter_shapes(read), parameter_shapes(config)) << preset;
    EXPECT_EQ(read.rope_theta, config.rope_theta);
  }
  LlamaConfig odd = preset_config("tiny").llama();
  odd.rope_scaling = Llama3RopeScaling{4.0, 1.5, 3.0, 64};
  for (const std::int64_t width : {1, 2, 3, 101, 170, 171, 172, 1000, 4095, 4096}) {
    odd.intermediate_size = width;
    const LlamaConfig read = parse(meta_config_text(odd));
    EXPECT_EQ(read.intermediate_size, width);
    EXPECT_EQ(read.rope_scaling, odd.rope_scaling);
  }
  odd.head_dim = 20;
  odd.sliding_window = 9;
  const LlamaConfig read = parse(meta_config_text(odd));
  EXPECT_EQ(read.head_dim, 20);
  EXPECT_EQ(read.sliding_window, 9);
  EXPECT_EQ(read.intermediate_size, odd.intermediate_size);
}

TEST(MetaConfig, WidthsOutOfReachOfAMultiplierAreWrittenAsTheyAre) {
  LlamaConfig config = preset_config("tiny").llama();
  config.intermediate_size = config.hidden_size * 2700;
  EXPECT_EQ(parse(meta_config_text(config)).intermediate_size, config.intermediate_size);
}

TEST(MetaConfig, LinearScalingCannotBeWritten) {
  LlamaConfig config = preset_config("tiny").llama();
  config.rope_scaling = LinearRopeScaling{2.0};
  EXPECT_THROW(static_cast<void>(meta_config_text(config)), UnsupportedError);
}

TEST(MetaConfig, BiasesCannotBeWritten) {
  for (bool LlamaConfig::*bias : {&LlamaConfig::attention_bias, &LlamaConfig::mlp_bias}) {
    LlamaConfig config = preset_config("tiny").llama();
    config.*bias = true;
    EXPECT_THROW(static_cast<void>(meta_config_text(config)), UnsupportedError);
  }
}

TEST(MetaConfig, MalformedFilesAreRefusedByField) {
  const std::string rest = R"(, "n_heads": 4, "n_layers": 2})";
  const std::pair<std::string, const char*> cases[] = {
      {"{}", "'dim'"},
      {"[]", "object"},
      {R"({"dim": 0)" + rest, "'dim'"},
      {R"({"dim": "64")" + rest, "'dim'"},
      {R"({"dim": 65)" + rest, "'n_heads'"},
      {R"({"dim": 12)" + rest, "'n_heads'"},  // heads of 3
      {R"({"dim": 64, "n_kv_heads": 3)" + rest, "'n_kv_heads'"},
      {R"({"dim": 64, "vocab_size": 0)" + rest, "'vocab_size'"},
      {R"({"dim": 64, "vocab_size": -2)" + rest, "'vocab_size'"},
      {R"({"dim": 64, "multiple_of": 0)" + rest, "'multiple_of'"},
      {R"({"dim": 64, "ffn_dim_multiplier": -1)" + rest, "'ffn_dim_multiplier'"},
      {R"({"dim": 64, "ffn_dim_multiplier": 0)" + rest, "'ffn_dim_multiplier'"},
      {R"({"dim": 1048576, "head_dim": 64, "ffn_dim_multiplier": 900)" + rest,
       "'ffn_dim_multiplier'"},
      {R"({"dim": 64, "norm_eps": 0)" + rest, "'norm_eps'"},
      {R"({"dim": 64, "rope_theta": 1e999)" + rest, ""},
      {R"({"dim": 64, "use_scaled_rope": 1)" + rest, "'use_scaled_rope'"},
      {R"({"dim": 64, "moe": {"num_experts": 8})" + rest, "'moe'"},
      {R"({"dim": 64, "quantization_args": {})" + rest, "'quantization_args'"},
      {R"({"dim": 64, "yarn": {"factor": 4})" + rest, "'yarn'"},
      {R"({"dim": 64, "sliding_window": 0)" + rest, "'sliding_window'"}};
  for (const auto& [text, word] : cases) {
    const std::string message =
        testing::input_error([&, &text = text] { static_cast<void>(parse(text)); });
    EXPECT_TRUE(message.starts_with("params.json")) << message;
    EXPECT_NE(message.find(word), std::string::npos) << message;
  }
}

}  // namespace
}  // namespace portolan
