// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "core/error.hpp"
#include "models/config.hpp"
#include "tests/unit/file_testing.hpp"

namespace portolan {
namespace {

using nlohmann::json;
using testing::data_path;
using testing::input_error;
using testing::read_file;

class MalformedConfig : public ::testing::TestWithParam<testing::BadCase> {};

TEST_P(MalformedConfig, IsRefusedWithOneLineThatNamesFileAndField) {
  const auto path = data_path("bad/" + GetParam().path);
  const std::string message = input_error([&] { static_cast<void>(read_model_config(path)); });
  EXPECT_TRUE(message.starts_with(path.string() + ": ")) << message;
  EXPECT_NE(message.find(GetParam().error_should_name), std::string::npos) << message;
}

INSTANTIATE_TEST_SUITE_P(, MalformedConfig, ::testing::ValuesIn(testing::bad_cases("config")),
                         [](const auto& each) { return testing::identifier(each.param.path); });

/// The config that all malformed ones were made from.
json sound() { return json::parse(read_file(data_path("bad/controls/config_ok.json"))); }

ModelConfig parse(const json& document) { return parse_model_config(document.dump(), "c.json"); }

/// The message for a sound config with `field` set to `value`.
std::string refusal(const std::string& field, const json& value) {
  json document = sound();
  document[field] = value;
  return input_error([&] { static_cast<void>(parse(document)); });
}

TEST(ModelConfig, TheSoundConfigIsReadFieldByField) {
  const ModelConfig config = read_model_config(data_path("bad/controls/config_ok.json"));
  EXPECT_EQ(config.architecture, "llama");
  const LlamaConfig& llama = config.llama();
  EXPECT_EQ(llama.hidden_size, 8);
  EXPECT_EQ(llama.intermediate_size, 12);
  EXPECT_EQ(llama.layers, 1);
  EXPECT_EQ(llama.attention_heads, 2);
  EXPECT_EQ(llama.kv_heads, 1);
  EXPECT_EQ(llama.head_dim, 4);
  EXPECT_EQ(llama.vocab_size, 16);
  EXPECT_EQ(llama.max_position_embeddings, 32);
  EXPECT_EQ(llama.rms_norm_epsilon, 1e-5);
  EXPECT_EQ(llama.rope_theta, 10000.0);
  EXPECT_TRUE(std::holds_alternative<NoRopeScaling>(llama.rope_scaling));
  EXPECT_FALSE(llama.tie_word_embeddings);
  EXPECT_FALSE(llama.sliding_window.has_value());
  EXPECT_EQ(llama.dtype, DType::f32);
  EXPECT_EQ(llama.bos_token_id, 1);
  EXPECT_EQ(llama.eos_token_ids, (std::vector<std::int64_t>{2}));
}

TEST(ModelConfig, UnknownFieldsChangeNothing) {
  EXPECT_EQ(read_model_config(data_path("bad/controls/config_unknown_fields.json")),
            read_model_config(data_path("bad/controls/config_ok.json")));
}

TEST(ModelConfig, TheStyleOfTransformers5MeansTheSame) {
  json old_style = sound();
  old_style["rope_theta"] = 500000.0;
  old_style["rope_scaling"] = {{"rope_type", "llama3"},
                               {"factor", 8},
                               {"low_freq_factor", 1.0},
                               {"high_freq_factor", 4.0},
                               {"original_max_position_embeddings", 16}};
  json new_style = old_style;
  new_style.erase("rope_theta");
  new_style.erase("rope_scaling");
  new_style.erase("torch_dtype");
  new_style["rope_parameters"] = old_style["rope_scaling"];
  new_style["rope_parameters"]["rope_theta"] = 500000.0;
  new_style["dtype"] = "float32";
  EXPECT_EQ(parse(old_style), parse(new_style));
  const auto scaling = std::get<Llama3RopeScaling>(parse(new_style).llama().rope_scaling);
  EXPECT_EQ(scaling.factor, 8.0);
  EXPECT_EQ(scaling.original_max_position_embeddings, 16);

  json type_spelling = old_style;
  type_spelling["rope_scaling"].erase("rope_type");
  type_spelling["rope_scaling"]["type"] = "llama3";
  EXPECT_EQ(parse(old_style), parse(type_spelling));
}

TEST(ModelConfig, LinearRopeScalingIsRead) {
  json document = sound();
  document["rope_scaling"] = {{"type", "linear"}, {"factor", 2.5}};
  EXPECT_EQ(std::get<LinearRopeScaling>(parse(document).llama().rope_scaling).factor, 2.5);
}

TEST(ModelConfig, DynamicRopeScalingIsRead) {
  json document = sound();
  document["rope_scaling"] = {{"type", "dynamic"}, {"factor", 4}};
  EXPECT_EQ(std::get<DynamicRopeScaling>(parse(document).llama().rope_scaling).factor, 4.0);
}

TEST(ModelConfig, YarnIsReadWithTheDefaultsOfItsPaper) {
  json document = sound();
  document["max_position_embeddings"] = 2048;
  document["rope_scaling"] = {{"rope_type", "yarn"}, {"factor", 16}};
  const auto read = [&document] {
    return std::get<YarnRopeScaling>(parse(document).llama().rope_scaling);
  };
  YarnRopeScaling expected{.factor = 16.0,
                           .original_max_position_embeddings = 2048,
                           .beta_fast = 32.0,
                           .beta_slow = 1.0,
                           .truncate = true,
                           .attention_factor = 0.1 * std::log(16.0) + 1.0};
  EXPECT_EQ(read(), expected);

  document["rope_scaling"].update({{"original_max_position_embeddings", 512},
                                   {"factor", nullptr},
                                   {"beta_fast", 8},
                                   {"beta_slow", 0.5},
                                   {"truncate", false},
                                   {"mscale", 0.5},
                                   {"mscale_all_dim", 2}});
  expected = {.factor = 4.0,
              .original_max_position_embeddings = 512,
              .beta_fast = 8.0,
              .beta_slow = 0.5,
              .truncate = false,
              .attention_factor = (0.05 * std::log(4.0) + 1.0) / (0.2 * std::log(4.0) + 1.0)};
  EXPECT_EQ(read(), expected);

  document["rope_scaling"]["attention_factor"] = 0.75;
  document["original_max_position_embeddings"] = 1024;
  expected.attention_factor = 0.75;
  expected.original_max_position_embeddings = 1024;
  expected.factor = 2.0;
  EXPECT_EQ(read(), expected);
}

TEST(ModelConfig, YarnThatMakesNoSenseIsRefused) {
  EXPECT_NE(refusal("rope_scaling", {{"type", "yarn"}, {"factor", 0}}).find("rope_scaling.factor"),
            std::string::npos);
  EXPECT_NE(refusal("rope_scaling", {{"type", "yarn"}, {"factor", 2}, {"beta_slow", 33}})
                .find("rope_scaling.beta_fast"),
            std::string::npos);
  EXPECT_NE(refusal("rope_scaling", {{"type", "yarn"}, {"factor", 2}, {"truncate", 1}})
                .find("rope_scaling.truncate"),
            std::string::npos);
  EXPECT_NE(refusal("rope_parameters", {{"rope_type", "yarn"}, {"factor", 2}, {"rope_theta", 1}})
                .find("rope_theta"),
            std::string::npos);
}

TEST(ModelConfig, RopeFieldsThatContradictOrCannotBeHonouredAreRefused) {
  EXPECT_NE(refusal("rope_scaling", {{"type", "linear"}, {"rope_type", "llama3"}, {"factor", 2}})
                .find("rope_type"),
            std::string::npos);
  EXPECT_NE(refusal("rope_scaling", {{"factor", 2}}).find("rope_scaling.rope_type"),
            std::string::npos);
  EXPECT_NE(refusal("rope_scaling", {{"rope_type", "longrope"}, {"factor", 2}}).find("longrope"),
            std::string::npos);
  EXPECT_NE(refusal("rope_parameters", {{"rope_type", "default"}, {"rope_theta", 7.0}})
                .find("rope_parameters.rope_theta"),
            std::string::npos);
  EXPECT_NE(refusal("rope_parameters", {{"full_attention", {{"rope_theta", 7.0}}}})
                .find("rope_parameters.full_attention"),
            std::string::npos);
  EXPECT_NE(refusal("rope_parameters", {{"rope_type", "default"}, {"partial_rotary_factor", 0.5}})
                .find("partial_rotary_factor"),
            std::string::npos);
}

TEST(ModelConfig, APartialRotationIsRefusedWhereverItStands) {
  EXPECT_NE(refusal("partial_rotary_factor", 0.5).find("partial_rotary_factor"), std::string::npos);
  json document = sound();
  document["partial_rotary_factor"] = 1.0;
  EXPECT_EQ(parse(document), parse(sound()));
}

TEST(ModelConfig, BiasesOfLlamaAreParametersAndThoseOfMistralAreRefused) {
  json document = sound();
  const std::int64_t without = parameter_count(parse(document));
  document["attention_bias"] = true;
  // Queries 8, keys and values 4 each, and what leaves the block 8.
  EXPECT_EQ(parameter_count(parse(document)) - without, 8 + 4 + 4 + 8);
  document["attention_bias"] = false;
  document["mlp_bias"] = true;
  EXPECT_EQ(parameter_count(parse(document)) - without, 12 + 12 + 8);
  document["model_type"] = "mistral";
  document["architectures"] = {"MistralForCausalLM"};
  EXPECT_NE(input_error([&] { static_cast<void>(parse(document)); }).find("mlp_bias"),
            std::string::npos);
}

TEST(ModelConfig, KindsOfLayersMustBeTheOneThatIsComputed) {
  json document = sound();
  document["layer_types"] = {"full_attention"};
  EXPECT_EQ(parse(document), parse(sound()));
  EXPECT_NE(refusal("layer_types", {"full_attention", "sliding_attention"})
                .find("layer_types': expected full_attention for every layer"),
            std::string::npos);
  EXPECT_NE(refusal("layer_types", "full_attention").find("layer_types"), std::string::npos);
  document["model_type"] = "mistral";
  document["architectures"] = {"MistralForCausalLM"};
  EXPECT_NE(input_error([&] { static_cast<void>(parse(document)); }).find("sliding_attention"),
            std::string::npos);
  document["layer_types"] = {"sliding_attention"};
  EXPECT_EQ(parse(document).llama().sliding_window, 4096);
}

TEST(ModelConfig, OptionalFieldsHaveThePublishedDefaults) {
  json document = sound();
  for (const char* field :
       {"num_key_value_heads", "rope_theta", "rope_scaling", "hidden_act", "attention_bias",
        "mlp_bias", "tie_word_embeddings", "torch_dtype", "bos_token_id", "eos_token_id",
        "rms_norm_eps", "max_position_embeddings", "architectures"}) {
    document.erase(field);
  }
  const LlamaConfig llama = parse(document).llama();
  EXPECT_EQ(llama.kv_heads, 2);
  EXPECT_EQ(llama.rope_theta, 10000.0);
  EXPECT_EQ(llama.rms_norm_epsilon, 1e-6);
  EXPECT_EQ(llama.max_position_embeddings, 2048);
  EXPECT_FALSE(llama.dtype.has_value());
  EXPECT_FALSE(llama.bos_token_id.has_value());
  EXPECT_TRUE(llama.eos_token_ids.empty());
}

TEST(ModelConfig, TheArchitectureMayBeNamedByModelTypeOrArchitecturesAlone) {
  json document = sound();
  document.erase("model_type");
  EXPECT_EQ(parse(document).architecture, "llama");
  document["architectures"] = {"MistralForCausalLM"};
  EXPECT_EQ(parse(document).architecture, "mistral");
  EXPECT_NE(refusal("architectures", {"LlamaForSequenceClassification"}).find("architectures"),
            std::string::npos);
  EXPECT_NE(refusal("architectures", "LlamaForCausalLM").find("architectures"), std::string::npos);
}

TEST(ModelConfig, TheMistralWindowIsItsNumberNoneForNullAnd4096WhenAbsent) {
  json document = sound();
  document["model_type"] = "mistral";
  document["architectures"] = {"MistralForCausalLM"};
  EXPECT_EQ(parse(document).llama().sliding_window, 4096);
  document["sliding_window"] = 8;
  EXPECT_EQ(parse(document).llama().sliding_window, 8);
  document["sliding_window"] = nullptr;
  EXPECT_FALSE(parse(document).llama().sliding_window.has_value());
}

TEST(ModelConfig, HeadDimMayDifferFromHiddenSizeOverHeads) {
  json document = sound();
  document["head_dim"] = 6;
  EXPECT_EQ(parse(document).llama().head_dim, 6);
  EXPECT_NE(refusal("head_dim", 258).find("head_dim"), std::string::npos);
  EXPECT_NE(refusal("hidden_size", 2048).find("num_attention_heads"), std::string::npos);
}

TEST(ModelConfig, EndTokensMayBeANumberOrAListWithinTheVocabulary) {
  json document = sound();
  document["eos_token_id"] = {3, 15};
  EXPECT_EQ(parse(document).llama().eos_token_ids, (std::vector<std::int64_t>{3, 15}));
  EXPECT_NE(refusal("eos_token_id", {3, 16}).find("found 16"), std::string::npos);
  EXPECT_NE(refusal("eos_token_id", {-1}).find("found -1"), std::string::npos);
  EXPECT_NE(refusal("eos_token_id", {18446744073709551615u}).find("eos_token_id"),
            std::string::npos);
}

TEST(ModelConfig, DtypesOutsideTheEngineAreKeptByName) {
  json document = sound();
  document["torch_dtype"] = "torch.bfloat16";
  EXPECT_EQ(parse(document).llama().dtype, DType::bf16);
  document["torch_dtype"] = "float8_e4m3fn";
  EXPECT_FALSE(parse(document).llama().dtype.has_value());
  EXPECT_EQ(parse(document).llama().dtype_name, "float8_e4m3fn");
  document["dtype"] = "float32";
  EXPECT_NE(input_error([&] { static_cast<void>(parse(document)); }).find("dtype"),
            std::string::npos);
}

constexpr const char* kBigCode = R"({"model_type": "gpt_bigcode", "n_embd": 64, "n_head": 4,
    "n_layer": 2, "n_positions": 128, "vocab_size": 600, "n_inner": null,
    "activation_function": "gelu"})";

TEST(ModelConfig, GptBigCodeIsReadWithItsOwnNames) {
  const ModelConfig config = parse_model_config(kBigCode, "c.json");
  const auto& bigcode = std::get<GptBigCodeConfig>(config.parameters);
  EXPECT_EQ(bigcode.intermediate_size, 256);
  EXPECT_EQ(bigcode.kv_heads, 1);
  EXPECT_EQ(bigcode.head_dim, 16);
  EXPECT_EQ(bigcode.activation, GeluKind::erf);
  EXPECT_TRUE(bigcode.tie_word_embeddings);
  EXPECT_EQ(config.common().vocab_size, 600);
  EXPECT_EQ(parameter_count(config), 134208);
  EXPECT_THROW(static_cast<void>(config.llama()), UnsupportedError);
}

TEST(ModelConfig, NamesOfEarlyRepositoriesAreTheSameArchitectures) {
  json bigcode = json::parse(kBigCode);
  bigcode["architectures"] = {"GPTBigCodeLMHeadModel"};
  EXPECT_EQ(parse(bigcode).architecture, "gpt_bigcode");
  json llama = sound();
  llama["architectures"] = {"LLaMAForCausalLM"};
  EXPECT_EQ(parse(llama).architecture, "llama");
}

TEST(ModelConfig, GelusOfSeveralNamesAreTheirFormulas) {
  json document = json::parse(kBigCode);
  const auto kind = [&](const char* name) {
    document["activation_function"] = name;
    return parse(document).as<GptBigCodeConfig>().activation;
  };
  for (const char* name : {"gelu", "gelu_python"}) EXPECT_EQ(kind(name), GeluKind::erf) << name;
  for (const char* name :
       {"gelu_pytorch_tanh", "gelu_python_tanh", "gelu_new", "gelu_fast", "gelu_accurate"}) {
    EXPECT_EQ(kind(name), GeluKind::tanh) << name;
  }
  for (const char* name : {"quick_gelu", "gelu_10", "relu"}) {
    EXPECT_NE(input_error([&] { static_cast<void>(kind(name)); }).find(name), std::string::npos);
  }
}

TEST(ModelConfig, RobertaIsReadWithItsOwnNames) {
  const ModelConfig config = parse_model_config(
      R"({"model_type": "roberta", "hidden_size": 64, "intermediate_size": 128,
          "num_attention_heads": 4, "num_hidden_layers": 2, "vocab_size": 601,
          "max_position_embeddings": 66, "type_vocab_size": 1, "layer_norm_eps": 1e-05})",
      "c.json");
  const auto& roberta = std::get<RobertaConfig>(config.parameters);
  EXPECT_EQ(roberta.pad_token_id, 1);
  EXPECT_EQ(roberta.type_vocab_size, 1);
  EXPECT_EQ(roberta.layer_norm_epsilon, 1e-5);
  EXPECT_EQ(roberta.activation, GeluKind::erf);
  EXPECT_EQ(parameter_count(config), 114713);
}

TEST(ModelConfig, XlmRobertaIsRobertaUnderAnotherName) {
  const std::string fields =
      R"("hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4,
         "num_hidden_layers": 2, "vocab_size": 601, "max_position_embeddings": 66,
         "type_vocab_size": 1, "layer_norm_eps": 1e-05})";
  const ModelConfig roberta =
      parse_model_config(R"({"model_type": "roberta", )" + fields, "c.json");
  const ModelConfig xlm = parse_model_config(
      R"({"model_type": "xlm-roberta", "architectures": ["XLMRobertaForMaskedLM"], )" + fields,
      "c.json");
  EXPECT_EQ(xlm.architecture, "xlm-roberta");
  EXPECT_EQ(xlm.as<RobertaConfig>(), roberta.as<RobertaConfig>());
  EXPECT_EQ(parameter_shapes(xlm), parameter_shapes(roberta));
  EXPECT_EQ(parse_model_config(config_text(xlm), "c.json"), xlm);
}

TEST(ModelConfig, BertIsReadWithItsOwnDefaults) {
  const ModelConfig config = parse_model_config(
      R"({"model_type": "bert", "hidden_size": 64, "intermediate_size": 128,
          "num_attention_heads": 4, "num_hidden_layers": 2, "vocab_size": 601,
          "max_position_embeddings": 66})",
      "c.json");
  const auto& bert = config.as<RobertaConfig>();
  EXPECT_TRUE(bert.is_bert);
  EXPECT_EQ(bert.pad_token_id, 0);
  EXPECT_EQ(bert.type_vocab_size, 2);
  EXPECT_EQ(bert.layer_norm_epsilon, 1e-12);
  EXPECT_EQ(bert.kv_heads, 4);
}

TEST(ModelConfig, DtypeMayBeSpelledAsByTransformers5InEveryArchitecture) {
  for (const char* preset : {"tiny", "gpt-bigcode-tiny", "roberta-tiny", "bert-base"}) {
    json document = json::parse(config_text(preset_config(preset)));
    document["dtype"] = "bfloat16";
    document.erase("torch_dtype");
    EXPECT_EQ(parse(document).common().dtype, DType::bf16) << preset;
  }
}

TEST(Presets, HaveThePublishedNumbersOfParameters) {
  EXPECT_EQ(parameter_count(preset_config("llama-7b")), 6'738'415'616);
  EXPECT_EQ(parameter_count(preset_config("llama-13b")), 13'015'864'320);
  EXPECT_EQ(parameter_count(preset_config("llama-70b")), 68'976'648'192);
  EXPECT_EQ(parameter_count(preset_config("llama-3-8b")), 8'030'261'248);
}

TEST(Presets, OfOtherArchitecturesHaveThePublishedNumbersOfParameters) {
  EXPECT_EQ(parameter_count(preset_config("starcoder")), 15'517'456'384);
  EXPECT_EQ(parameter_count(preset_config("starcoder-7b")), 7'327'263'232);
  EXPECT_EQ(parameter_count(preset_config("starcoder-3b")), 3'043'311'104);
  EXPECT_EQ(parameter_count(preset_config("starcoder-1b")), 1'137'207'296);
  EXPECT_EQ(parameter_count(preset_config("santacoder")), 1'124'886'528);
  EXPECT_EQ(parameter_count(preset_config("roberta-base")), 124'697'433);
  EXPECT_EQ(parameter_count(preset_config("roberta-large")), 355'412'057);
  EXPECT_EQ(parameter_count(preset_config("xlm-roberta-base")), 278'295'186);
  EXPECT_EQ(parameter_count(preset_config("xlm-roberta-large")), 560'142'482);
  EXPECT_EQ(parameter_count(preset_config("bert-base")), 109'514'298);
  EXPECT_EQ(parameter_count(preset_config("bert-large")), 335'174'458);
}

TEST(Presets, AnswerToShortNamesAndRefuseOthers) {
  EXPECT_EQ(preset_config("7b"), preset_config("llama-7b"));
  EXPECT_EQ(preset_config("13b"), preset_config("llama-13b"));
  EXPECT_EQ(preset_config("70b"), preset_config("llama-70b"));
  for (const std::string& name : preset_names()) {
    EXPECT_NO_THROW(static_cast<void>(preset_config(name))) << name;
  }
  EXPECT_THROW(static_cast<void>(preset_config("")), UsageError);
  EXPECT_THROW(static_cast<void>(preset_config("llama-8b")), UsageError);
}

TEST(Presets, LlamaSevenBHasTheDimensionsOfThePublishedExperiment) {
  const ModelConfig model = preset_config("llama-7b");
  const LlamaConfig& config = model.llama();
  EXPECT_EQ(config.hidden_size, 4096);
  EXPECT_EQ(config.intermediate_size, 11008);
  EXPECT_EQ(config.layers, 32);
  EXPECT_EQ(config.attention_heads, 32);
  EXPECT_EQ(config.head_dim, 128);
  EXPECT_EQ(model.with_layers(2).common().layers, 2);
  EXPECT_EQ(model.with_layers(2).common().hidden_size, 4096);
  EXPECT_THROW(static_cast<void>(model.with_layers(0)), UsageError);
  EXPECT_THROW(static_cast<void>(model.with_layers(kMaximumLayers + 1)), UsageError);
}

TEST(ParameterShapes, ListWeightsAsOutByInAndATiedWeightOnce) {
  LlamaConfig config = preset_config("tiny").with_layers(1).llama();
  const auto shapes = parameter_shapes(config);
  ASSERT_EQ(shapes.size(), 12u);
  EXPECT_EQ(shapes[0], (ParameterShape{"model.embed_tokens.weight", {256, 64}}));
  EXPECT_EQ(shapes[3], (ParameterShape{"model.layers.0.self_attn.k_proj.weight", {32, 64}}));
  EXPECT_EQ(shapes[9], (ParameterShape{"model.layers.0.mlp.down_proj.weight", {64, 176}}));
  EXPECT_EQ(shapes[11], (ParameterShape{"lm_head.weight", {256, 64}}));
  config.tie_word_embeddings = true;
  EXPECT_EQ(parameter_shapes(config).size(), 11u);
  EXPECT_EQ(parameter_count(preset_config("tiny").with_layers(1)) - parameter_count(config),
            256 * 64);
}

TEST(ParameterShapes, TheLargestConfigWithinTheBoundsDoesNotOverflow) {
  LlamaConfig config;
  config.hidden_size = kMaximumHiddenSize;
  config.intermediate_size = kMaximumIntermediateSize;
  config.layers = kMaximumLayers;
  config.attention_heads = config.kv_heads = kMaximumHeads;
  config.head_dim = kMaximumHeadDim;
  config.vocab_size = kMaximumVocabSize;
  // In f64 from here: 8 bytes each must fit 63 bits.
  const auto hidden = static_cast<double>(config.hidden_size);
  const double layer = 4.0 * hidden * kMaximumHeads * kMaximumHeadDim +
                       3.0 * hidden * kMaximumIntermediateSize + 2.0 * hidden;
  const double expected = layer * kMaximumLayers + 2.0 * hidden * kMaximumVocabSize + hidden;
  EXPECT_LT(expected * 8, 0x1p63);
  EXPECT_NEAR(static_cast<double>(parameter_count(config)) / expected, 1.0, 1e-12);
}

}  // namespace
}  // namespace portolan
