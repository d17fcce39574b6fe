// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <string>

#include "core/error.hpp"
#include "models/model_plan.hpp"

namespace portolan {
namespace {

ParallelLayout tensor_layout(int ranks, bool sequence_parallel = false) {
  ParallelLayout layout;
  layout.mesh.tensor = ranks;
  layout.sequence_parallel = sequence_parallel;
  return layout;
}

constexpr auto index_of(Collective collective) { return static_cast<std::size_t>(collective); }

TEST(ModelPlan, TwoRanksHoldHalfOfEveryMatrixOfThe7B) {
  const ModelConfig config = preset_config("llama-7b").with_layers(2);
  const ModelPlan plan(config, tensor_layout(2));
  EXPECT_EQ(plan.parameters().at("model.layers.1.mlp.up_proj.weight").ranges[1],
            (ShardRange{5504, 11008, 0, 4096}));
  EXPECT_EQ(plan.parameters().at("model.layers.0.self_attn.o_proj.weight").ranges[0],
            (ShardRange{0, 4096, 0, 2048}));
  const std::int64_t norms = 5 * 4096;
  EXPECT_EQ(plan.parameters().elements(0), (parameter_count(config) - norms) / 2 + norms);
}

TEST(ModelPlan, ShardsOfAllRanksCoverEveryParameterExactlyOnce) {
  LlamaConfig config = preset_config("tiny").llama();
  config.attention_heads = 10;
  config.kv_heads = 10;
  config.hidden_size = 72;
  config.intermediate_size = 101;
  config.vocab_size = 211;
  for (int ranks = 1; ranks <= 10; ++ranks) {
    const ModelPlan plan(config, tensor_layout(ranks));
    for (const PlannedParameter& parameter : plan.parameters().parameters()) {
      if (parameter.style == ShardStyle::replicate) continue;
      std::int64_t covered = 0;
      for (const ShardRange& range : parameter.ranges) covered += range.rows() * range.columns();
      EXPECT_EQ(covered, parameter.shape.elements()) << parameter.name << " on " << ranks;
    }
  }
}

TEST(ModelPlan, OneTableOfPatternsDealsTheMatricesOfEveryArchitecture) {
  for (const char* preset : {"llama-7b", "starcoder-1b", "roberta-base", "bert-base"}) {
    SCOPED_TRACE(preset);
    const ModelPlan plan(preset_config(preset).with_layers(1), tensor_layout(4));
    EXPECT_TRUE(plan.embedding_is_sharded());
    EXPECT_TRUE(plan.attention_is_sharded());
    EXPECT_TRUE(plan.mlp_is_sharded());
    for (const PlannedParameter& parameter : plan.parameters().parameters()) {
      // Inside blocks and in the vocabulary nothing is left whole on every rank.
      EXPECT_EQ(parameter.style == ShardStyle::replicate, parameter.between_blocks)
          << parameter.name;
    }
  }
}

TEST(ModelPlan, FusedTensorsAreDealtByTheirParts) {
  const ModelPlan plan(preset_config("starcoder-1b").with_layers(1), tensor_layout(4));
  const std::string name = "transformer.h.0.attn.c_attn.weight";
  const PlannedParameter& query = plan.parameters().at(name + "[query]");
  const PlannedParameter& value = plan.parameters().at(name + "[value]");
  EXPECT_EQ(query.ranges[1], (ShardRange{512, 1024, 0, 2048}));
  EXPECT_EQ(value.tensor, name);
  EXPECT_EQ(value.tensor_shape, Shape({2048 + 2 * 128, 2048}));
  EXPECT_EQ(value.first_row, 2048 + 128);
  for (const ShardRange& range : value.ranges) {
    EXPECT_EQ(range, (ShardRange{0, 128, 0, 2048})) << "every rank reads the one value head";
  }
}

TEST(ModelPlan, KeyValueHeadsAreReplicatedBeyondTheirNumber) {
  const ModelPlan plan(preset_config("llama-3-8b"), tensor_layout(16));
  for (int rank = 0; rank < 16; ++rank) {
    EXPECT_EQ(plan.query_heads(rank), 2);
    EXPECT_EQ(plan.key_value_heads(rank), 1);
    EXPECT_EQ(plan.first_key_value_head(rank), rank / 2);
  }
}

TEST(ModelPlan, MoreRanksThanQueryHeadsIsRefusedWithBothNumbers) {
  try {
    const ModelPlan plan(preset_config("llama-7b"), tensor_layout(33));
    FAIL() << "33 ranks were accepted";
  } catch (const UsageError& error) {
    EXPECT_NE(std::string(error.what()).find("32"), std::string::npos);
    EXPECT_NE(std::string(error.what()).find("33"), std::string::npos);
  }
}

TEST(ModelPlan, SequenceParallelismSendsTheBytesOfTensorParallelismPlusTheHeadsGather) {
  const ModelConfig config = preset_config("llama-7b").with_layers(2);
  const std::int64_t tensor = 1024 * 4096 * 4;  // one activation [1, 1024, 4096] f32
  const auto tp = ModelPlan(config, tensor_layout(2)).communication(1, 1024, DType::f32);
  // One sum for the embedding and two for each layer, on two ranks.
  EXPECT_EQ(tp[index_of(Collective::all_reduce)].calls, 2 * 5);
  EXPECT_EQ(tp[index_of(Collective::all_reduce)].bytes, 5 * 2 * tensor);
  const auto sp = ModelPlan(config, tensor_layout(2, true)).communication(1, 1024, DType::f32);
  EXPECT_EQ(sp[index_of(Collective::all_reduce)].calls, 0);
  EXPECT_EQ(sp[index_of(Collective::reduce_scatter)].calls, 2 * 5);
  EXPECT_EQ(sp[index_of(Collective::all_gather)].calls, 2 * 5);
  EXPECT_EQ(
      sp[index_of(Collective::reduce_scatter)].bytes + sp[index_of(Collective::all_gather)].bytes,
      tp[index_of(Collective::all_reduce)].bytes);
}

TEST(ModelPlan, RingSendsEveryBlockToEveryOtherRankOnce) {
  const ModelConfig config = preset_config("llama-3-8b").with_layers(1);
  const ModelPlan plan(config, ParallelLayout::of(ParallelMode::ring, 4));
  const auto expected = plan.communication(1, 6998, DType::f32);
  // 8 chunks of 875 or 874: the largest rank holds 1750 tokens; 8 heads of 128, keys and values.
  EXPECT_EQ(expected[index_of(Collective::ring_shift)].bytes,
            std::int64_t{4} * 3 * 2 * 1750 * 8 * 128 * 4);
  EXPECT_EQ(expected[index_of(Collective::ring_shift)].calls, 4 * 3);
}

TEST(ModelPlan, ProductsOfAllRanksAddUpToOneRanks) {
  const ModelConfig config = preset_config("llama-7b").with_layers(2);
  const auto flops = [&](const ParallelLayout& layout) {
    const ModelPlan plan(config, layout);
    double sum = 0.0;
    for (int rank = 0; rank < layout.mesh.ranks(); ++rank) {
      for (const ProductShape& product : plan.products(rank, 2, 1000)) sum += product.flops();
    }
    return sum;
  };
  const double one = flops({});
  EXPECT_DOUBLE_EQ(flops(tensor_layout(3)), one);
  EXPECT_DOUBLE_EQ(flops(ParallelLayout::of(ParallelMode::ring, 4)), one);
}

TEST(ModelPlan, RulesThatCutABlockAtDifferentPlacesAreRefused) {
  std::vector<PlanRule> rules = default_tensor_parallel_rules();
  std::erase_if(rules, [](const PlanRule& rule) {
    return rule.pattern.find("down_proj") != std::string::npos;
  });
  EXPECT_THROW(ModelPlan(preset_config("llama-7b"), tensor_layout(2), rules), UsageError);
}

/// The built-in table with `axis` in the place of that of the parameters whose pattern holds
/// `part`.
std::vector<PlanRule> rules_with(const std::string& part, const PlanRule& other) {
  std::vector<PlanRule> rules = default_tensor_parallel_rules();
  for (PlanRule& rule : rules) {
    if (rule.pattern.find(part) == std::string::npos) continue;
    rule.style = other.style;
    rule.axis = other.axis;
  }
  return rules;
}

TEST(ModelPlan, QueriesThatNobodyHoldsAreRefused) {
  std::vector<PlanRule> rules = rules_with("q_proj", {"", ShardStyle::column, "key_value_heads"});
  for (PlanRule& rule : rules) {
    if (rule.pattern.find("o_proj") != std::string::npos) rule.axis = "key_value_heads";
  }
  EXPECT_THROW(ModelPlan(preset_config("llama-3-8b"), tensor_layout(2), rules), UsageError);
}

TEST(ModelPlan, HeadsThatAreCutAreRefused) {
  LlamaConfig config = preset_config("tiny").llama();
  config.vocab_size = config.attention_heads * config.head_dim;
  std::vector<PlanRule> rules = rules_with("q_proj", {"", ShardStyle::column, "vocabulary"});
  for (PlanRule& rule : rules) {
    if (rule.pattern.find("o_proj") != std::string::npos) rule.axis = "vocabulary";
  }
  EXPECT_NO_THROW(ModelPlan(config, tensor_layout(2), rules));
  EXPECT_THROW(ModelPlan(config, tensor_layout(3), rules), UsageError);
}

TEST(ModelPlan, ValuesDealtOtherwiseThanTheirKeysAreRefused) {
  std::vector<PlanRule> rules = default_tensor_parallel_rules();
  rules.insert(rules.begin(),
               {R"(model\.layers\.\d+\.self_attn\.v_proj\.weight)", ShardStyle::replicate, ""});
  EXPECT_THROW(ModelPlan(preset_config("llama-3-8b"), tensor_layout(2), rules), UsageError);
}

TEST(ModelPlan, EveryReplicaSendsTheSame) {
  const ModelConfig config = preset_config("tiny");
  const auto bytes = [&](int replicas) {
    ParallelLayout layout = tensor_layout(2);
    layout.mesh.data = replicas;
    return ModelPlan(config, layout)
        .communication(1, 8, DType::f32)[index_of(Collective::all_reduce)]
        .bytes;
  };
  EXPECT_GT(bytes(1), 0);
  EXPECT_EQ(bytes(3), 3 * bytes(1));
}

TEST(ModelPlan, BiasesCutDifferentlyFromTheirFeaturesAreRefused) {
  std::vector<PlanRule> rules = default_tensor_parallel_rules();
  // The weights of these alone.
  for (PlanRule& rule : rules) {
    if (rule.pattern.find("intermediate") == std::string::npos) continue;
    rule.pattern.replace(rule.pattern.rfind("(weight|bias)"), 13, "weight");
  }
  EXPECT_THROW(ModelPlan(preset_config("roberta-base"), tensor_layout(2), rules), UsageError);
}

TEST(ModelPlan, PatternsOfOtherArchitecturesAreFineAndMistakesAreNot) {
  std::vector<PlanRule> rules = default_tensor_parallel_rules();
  for (const char* preset : {"llama-7b", "starcoder", "roberta-base"}) {
    for (const int ranks : {1, 2}) {
      EXPECT_NO_THROW(ModelPlan(preset_config(preset), tensor_layout(ranks), rules));
    }
  }
  rules.push_back(
      {R"(model\.layers\.\d+\.self_attn\.q_prj\.weight)", ShardStyle::column, "query_heads"});
  for (const int ranks : {1, 2}) {
    EXPECT_THROW(ModelPlan(preset_config("llama-7b"), tensor_layout(ranks), rules), UsageError);
  }
}

}  // namespace
}  // namespace portolan
