// SPDX-License-Identifier: Apache-2.0
// Models of every architecture under every mode that the number of ranks allows, against golden
// logits and against one rank's. Run under mpirun with 1, 2, 3 and 4 ranks.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <limits>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "apps/forward_measurement.hpp"
#include "core/error.hpp"
#include "core/ops.hpp"
#include "core/safetensors.hpp"
#include "models/registry.hpp"
#include "tests/mpi/layouts.hpp"
#include "tests/mpi/test_runtime.hpp"
#include "tests/reference/quantization_reference.hpp"

namespace portolan {
namespace {

std::string text(const ParallelLayout& layout) {
  return layout.mesh.to_string() + (layout.sequence_parallel ? " sequence parallel" : "");
}

std::unique_ptr<Model> build(const ModelPlan& plan, const ParallelContext& context,
                             WeightSource& weights, std::int64_t length, DType dtype = DType::f32) {
  return make_model({.plan = plan,
                     .context = context,
                     .weights = weights,
                     .dtype = dtype,
                     .device = test_device(),
                     .maximum_length = length});
}

std::unique_ptr<Model> build(const ModelConfig& config, const ParallelLayout& layout,
                             const ParallelContext& context, WeightSource& weights,
                             std::int64_t length, DType dtype = DType::f32) {
  return build(ModelPlan(config, layout), context, weights, length, dtype);
}

/// All logit rows of a forward as [batch * length, vocab], on every rank.
std::vector<float> all_logits(const Model& model, const std::vector<std::int32_t>& ids,
                              std::int64_t batch, const ForwardOptions& options = {}) {
  const std::int64_t length = static_cast<std::int64_t>(ids.size()) / batch;
  const Tensor logits = model.forward(ids, batch, options).value();
  std::vector<std::int64_t> rows(ids.size());
  std::iota(rows.begin(), rows.end(), 0);
  return values_of(model.gather_logits(logits, rows, length));
}

double largest(const std::vector<float>& values) {
  double result = 0.0;
  for (const float value : values) result = std::max(result, std::abs(static_cast<double>(value)));
  return result;
}

double largest_difference(const std::vector<float>& a, const std::vector<float>& b) {
  if (a.size() != b.size()) return std::numeric_limits<double>::infinity();
  double result = 0.0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    result = std::max(result, std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i])));
  }
  return result;
}

class GoldenModel : public ::testing::TestWithParam<std::string> {
 protected:
  [[nodiscard]] std::string folder() const {
    return std::string(PORTOLAN_TEST_DATA) + "/models/" + GetParam();
  }
};

struct Batch {
  std::vector<std::int32_t> ids;  // real tokens of one row
  std::vector<float> logits;
};

/// Rows of the golden batch without their padding.
std::vector<Batch> golden_rows(const std::string& folder) {
  const SafetensorsFile file(folder + "/expected.safetensors");
  const auto read = [&file]<typename T>(const char* name, DType dtype, std::vector<T>& values) {
    const SafetensorsEntry& entry = file.at(name);
    values.resize(static_cast<std::size_t>(entry.elements()));
    file.read(entry, values.data(), dtype);
    return entry.shape;
  };
  std::vector<std::int64_t> ids;
  std::vector<std::int64_t> mask;
  std::vector<float> logits;
  read("attention_mask", DType::i64, mask);
  read("input_ids", DType::i64, ids);
  const std::vector<std::int64_t> shape = read("logits", DType::f32, logits);
  std::vector<Batch> rows;
  for (std::int64_t b = 0; b < shape[0]; ++b) {
    Batch row;
    for (std::int64_t t = 0; t < shape[1]; ++t) {
      const std::int64_t at = b * shape[1] + t;
      if (mask[static_cast<std::size_t>(at)] == 0) continue;
      row.ids.push_back(static_cast<std::int32_t>(ids[static_cast<std::size_t>(at)]));
      row.logits.insert(row.logits.end(), logits.begin() + at * shape[2],
                        logits.begin() + (at + 1) * shape[2]);
    }
    rows.push_back(std::move(row));
  }
  return rows;
}

TEST_P(GoldenModel, LogitsInF32EqualTheReferenceUnderEveryMode) {
  const Checkpoint checkpoint(folder());
  const std::vector<Batch> rows = golden_rows(folder());
  for (const ParallelLayout& layout : layouts(test_world().size())) {
    SCOPED_TRACE(text(layout));
    const ParallelContext context(test_world(), layout);
    const auto weights = make_checkpoint_weights(checkpoint);
    const auto model = build(checkpoint.config(), layout, context, *weights, 64);
    for (const Batch& row : rows) {
      // 1e-4 is ten times what two correct f32 implementations differ by on these models.
      EXPECT_LE(largest_difference(all_logits(*model, row.ids, 1), row.logits), 1e-4);
    }
  }
}

TEST_P(GoldenModel, LogitsInBf16StayWithinItsRounding) {
  const Checkpoint checkpoint(folder());
  const std::vector<Batch> rows = golden_rows(folder());
  for (const ParallelLayout& layout : layouts(test_world().size())) {
    SCOPED_TRACE(text(layout));
    const ParallelContext context(test_world(), layout);
    const auto weights = make_checkpoint_weights(checkpoint);
    const auto model = build(checkpoint.config(), layout, context, *weights, 64, DType::bf16);
    double squares = 0.0;
    double count = 0.0;
    for (const Batch& row : rows) {
      const std::vector<float> logits = all_logits(*model, row.ids, 1);
      EXPECT_LE(largest_difference(logits, row.logits), 0.5);
      for (std::size_t i = 0; i < logits.size(); ++i) {
        squares += std::pow(static_cast<double>(logits[i]) - row.logits[i], 2);
        count += 1.0;
      }
    }
    // bf16 keeps 8 bits: some 40 roundings of relative size 2^-9 on a residual stream whose logits
    // spread over about 2 leave a root mean square of a few hundredths.
    EXPECT_LE(std::sqrt(squares / count), 0.06);
  }
}

/// A checkpoint whose matrices are replaced by what their integers stand for; each block by itself,
/// as ranks quantize their shards.
class DequantizedWeights final : public WeightSource {
 public:
  DequantizedWeights(const Checkpoint& checkpoint, int bits)
      : source_(make_checkpoint_weights(checkpoint)), bits_(bits) {}

  void read(const PlannedParameter& parameter, std::int64_t row_begin, std::int64_t column_begin,
            const Tensor& out) override {
    source_->read(parameter, row_begin, column_begin, out);
    if (parameter.shape.rank() != 2 || is_table(parameter.name)) return;
    std::vector<float> values = values_of(out);
    const std::vector<double> weight(values.begin(), values.end());
    const std::vector<double> dequantized =
        reference::quantize(weight, out.dim(0), out.dim(1), bits_).values;
    for (std::size_t i = 0; i < weight.size(); ++i) {
      values[i] = static_cast<float>(dequantized[i]);
      error_ += std::pow(dequantized[i] - weight[i], 2);
      squares_ += std::pow(weight[i], 2);
    }
    const Tensor host = Tensor::borrow(values.data(), out.shape(), DType::f32, Device{});
    ops::copy(ops::to_device(host, out.device()), out);
  }

  /// Of all matrices, the root mean square of what quantization changed over that of the weights.
  [[nodiscard]] double relative_error() const { return std::sqrt(error_ / squares_); }

 private:
  /// Tables of embeddings, which a tied head shares, stay as they are.
  [[nodiscard]] static bool is_table(const std::string& name) {
    return name.find("embed") != std::string::npos || name.find(".wte.") != std::string::npos ||
           name.find(".wpe.") != std::string::npos;
  }

  std::unique_ptr<WeightSource> source_;
  int bits_;
  double error_ = 0.0;
  double squares_ = 0.0;
};

TEST_P(GoldenModel, QuantizedLogitsAreThoseOfWhatTheIntegersStandFor) {
  const Checkpoint checkpoint(folder());
  const std::vector<Batch> rows = golden_rows(folder());
  for (const ParallelLayout& layout : layouts(test_world().size())) {
    for (const Quantization quantization : {Quantization::int8, Quantization::int4}) {
      SCOPED_TRACE(text(layout) + " " + std::string(name_of(quantization)));
      const ParallelContext context(test_world(), layout);
      const ModelPlan plan(checkpoint.config(), layout);
      DequantizedWeights stand_in(checkpoint, quantization == Quantization::int4 ? 4 : 8);
      const auto dequantized = build(plan, context, stand_in, 64);
      const auto weights = make_checkpoint_weights(checkpoint);
      const auto model = make_model({.plan = plan,
                                     .context = context,
                                     .weights = *weights,
                                     .device = test_device(),
                                     .maximum_length = 64,
                                     .quantization = quantization});
      EXPECT_LT(model->weight_bytes(), dequantized->weight_bytes());
      double error = 0.0;
      double squares = 0.0;
      for (const Batch& row : rows) {
        const std::vector<float> logits = all_logits(*model, row.ids, 1);
        EXPECT_LE(largest_difference(logits, all_logits(*dequantized, row.ids, 1)), 1e-4);
        for (std::size_t i = 0; i < logits.size(); ++i) {
          error += std::pow(static_cast<double>(logits[i]) - row.logits[i], 2);
          squares += std::pow(static_cast<double>(row.logits[i]), 2);
        }
      }
      // Each product adds a relative error of about that of its weights, independent of the
      // others', to a residual stream that four products of a layer and the head's go through.
      const double products = 4.0 * static_cast<double>(checkpoint.config().common().layers) + 1.0;
      const double relative = std::sqrt(error / squares);
      EXPECT_LE(relative, 2.0 * stand_in.relative_error() * std::sqrt(products));
      EXPECT_GE(relative, 0.05 * stand_in.relative_error());
    }
  }
}

TEST(QuantizedTraining, IsRefused) {
  const ModelConfig config = preset_config("tiny");
  const ParallelLayout layout = layouts(test_world().size()).front();
  const ParallelContext context(test_world(), layout);
  const auto weights = make_random_weights(0);
  EXPECT_THROW(static_cast<void>(make_model({.plan = ModelPlan(config, layout),
                                             .context = context,
                                             .weights = *weights,
                                             .device = test_device(),
                                             .maximum_length = 8,
                                             .use = ParameterUse::training,
                                             .quantization = Quantization::int8})),
               UsageError);
}

INSTANTIATE_TEST_SUITE_P(Models, GoldenModel,
                         ::testing::Values("llama-tiny-gqa", "llama-tiny-mha-bf16",
                                           "llama-tiny-bias", "llama3-tiny-tied",
                                           "mistral-tiny-swa", "gpt-bigcode-tiny", "roberta-tiny"),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::ranges::replace(name, '-', '_');
                           return name;
                         });

/// Random matrices, and biases that are not zero.
class RandomWeightsAndBiases final : public WeightSource {
 public:
  explicit RandomWeightsAndBiases(std::uint64_t seed)
      : seed_(seed), matrices_(make_random_weights(seed)) {}

  void read(const PlannedParameter& parameter, std::int64_t row_begin, std::int64_t column_begin,
            const Tensor& out) override {
    if (!parameter.tensor.ends_with(".bias")) {
      matrices_->read(parameter, row_begin, column_begin, out);
      return;
    }
    ops::random_uniform(out, random_key(seed_, parameter.tensor),
                        {parameter.first_row + row_begin, 0, 1}, 0.0F, 0.2F);
  }

 private:
  std::uint64_t seed_;
  std::unique_ptr<WeightSource> matrices_;
};

/// Nothing here divides evenly by 2, 3 or 4.
template <typename Config>
Config uneven(Config config, std::int64_t kv_heads) {
  config.layers = 2;
  config.attention_heads = 10;
  config.kv_heads = kv_heads;
  config.head_dim = 12;
  config.hidden_size = 120;
  config.intermediate_size = 101;
  config.vocab_size = 211;
  return config;
}

LlamaConfig uneven_llama() {
  LlamaConfig config = uneven(preset_config("tiny").llama(), 5);
  config.hidden_size = 72;  // is not heads x head_dim
  return config;
}

struct UnevenModel {
  std::string name;
  ModelConfig config;
};

std::vector<UnevenModel> uneven_models() {
  LlamaConfig grouped = uneven_llama();
  // Groups of 4 query heads, which shares of 3, 3, 2 heads cut.
  grouped.attention_heads = 8;
  grouped.kv_heads = 2;
  LlamaConfig biased = grouped;
  biased.attention_bias = biased.mlp_bias = true;
  LlamaConfig windowed = uneven_llama();
  windowed.sliding_window = 4;
  const auto bigcode = preset_config("gpt-bigcode-tiny").as<GptBigCodeConfig>();
  auto roberta = uneven(preset_config("roberta-tiny").as<RobertaConfig>(), 10);
  auto bert = roberta;
  bert.is_bert = true;
  bert.tie_word_embeddings = false;
  bert.type_vocab_size = 2;
  return {{"llama", uneven_llama()},
          {"llama_grouped", grouped},
          {"llama_biased", biased},
          {"mistral", windowed},
          {"gpt_bigcode", uneven(bigcode, 1)},
          {"gpt_bigcode_mha", uneven(bigcode, 10)},
          {"roberta", roberta},
          {"bert", bert}};
}

class UnevenModels : public ::testing::TestWithParam<UnevenModel> {
 protected:
  [[nodiscard]] const ModelConfig& config() const { return GetParam().config; }
  [[nodiscard]] std::vector<std::int32_t> ids(std::int64_t batch, std::int64_t length) const {
    return random_token_ids(3, batch, length, config().common().vocab_size);
  }
  /// The same weights on one rank.
  [[nodiscard]] std::unique_ptr<Model> alone(std::int64_t length) {
    return build(config(), {}, alone_context_, weights_, length);
  }

  std::unique_ptr<Communicator> single_ = make_single_communicator();
  ParallelContext alone_context_{*single_, {}};
  RandomWeightsAndBiases weights_{11};
};

INSTANTIATE_TEST_SUITE_P(Models, UnevenModels, ::testing::ValuesIn(uneven_models()),
                         [](const auto& info) { return info.param.name; });

TEST_P(UnevenModels, EveryModeGivesTheLogitsOfOneRank) {
  for (const std::int64_t length : {1, 2, 13, 131}) {
    const std::vector<float> reference = all_logits(*alone(length), ids(2, length), 2);
    const double scale = largest(reference);
    ASSERT_GT(scale, 0.0);
    for (const ParallelLayout& layout : layouts(test_world().size())) {
      SCOPED_TRACE(text(layout) + ", " + std::to_string(length) + " tokens");
      const ParallelContext context(test_world(), layout);
      const auto model = build(config(), layout, context, weights_, length);
      const std::vector<float> first = all_logits(*model, ids(2, length), 2);
      EXPECT_LE(largest_difference(first, reference), 1e-4 * scale);
      const std::vector<float> second = all_logits(*model, ids(2, length), 2);
      EXPECT_EQ(std::memcmp(first.data(), second.data(), first.size() * sizeof(float)), 0)
          << "two runs must give the same bits";
    }
  }
}

TEST_P(UnevenModels, PaddedSequencesGiveTheLogitsOfTheirTokensAlone) {
  constexpr std::int64_t kLength = 13;
  const std::vector<KeyRange> real{{0, kLength}, {0, 6}, {4, kLength}, {5, 6}};
  const auto batch = std::ssize(real);
  const std::vector<std::int32_t> ids = this->ids(batch, kLength);
  const auto reference_model = alone(kLength);
  const std::int64_t vocabulary = config().common().vocab_size;
  for (const ParallelLayout& layout : layouts(test_world().size())) {
    SCOPED_TRACE(text(layout));
    const ParallelContext context(test_world(), layout);
    const auto model = build(config(), layout, context, weights_, kLength);
    const std::vector<float> padded = all_logits(*model, ids, batch, {.real_tokens = real});
    for (std::int64_t b = 0; b < batch; ++b) {
      const auto& [begin, end] = real[static_cast<std::size_t>(b)];
      const std::int64_t first = b * kLength + begin;
      const std::vector<std::int32_t> own(ids.begin() + first, ids.begin() + first + end - begin);
      const std::vector<float> reference = all_logits(*reference_model, own, 1);
      const std::vector<float> rows(
          padded.begin() + first * vocabulary,
          padded.begin() + first * vocabulary + static_cast<std::ptrdiff_t>(reference.size()));
      EXPECT_LE(largest_difference(rows, reference), 1e-4 * largest(reference)) << "row " << b;
    }
  }
}

TEST_P(UnevenModels, CountersEqualThePlansClosedForm) {
  for (const ParallelLayout& layout : layouts(test_world().size())) {
    SCOPED_TRACE(text(layout));
    ParallelContext context(test_world(), layout);
    const auto model = build(config(), layout, context, weights_, 64);
    context.reset_communication();
    const Tensor logits = model->forward(ids(2, 37), 2);
    const CommunicationCounters counters = context.communication();
    const ExpectedCommunication expected = model->plan().communication(2, 37, DType::f32);
    for (std::size_t i = 0; i < kCollectiveCount; ++i) {
      const auto name = name_of(static_cast<Collective>(i));
      EXPECT_EQ(test_sum(counters[i].calls), expected[i].calls) << name;
      EXPECT_EQ(test_sum(counters[i].bytes), expected[i].bytes) << name;
    }
  }
}

TEST_P(UnevenModels, ReplicatedPartsGiveTheSameLogits) {
  const std::vector<float> reference = all_logits(*alone(9), ids(2, 9), 2);
  for (const bool only_mlp : {true, false}) {
    // First the MLP alone sharded, then everything but the vocabulary.
    std::vector<PlanRule> rules = default_tensor_parallel_rules();
    std::erase_if(rules, [&](const PlanRule& rule) {
      return only_mlp ? rule.axis != "intermediate" : rule.axis == "vocabulary";
    });
    for (const bool sequence_parallel : {false, true}) {
      ParallelLayout layout;
      layout.mesh.tensor = test_world().size();
      layout.sequence_parallel = sequence_parallel && test_world().size() > 1;
      const ParallelContext context(test_world(), layout);
      const auto model = build(ModelPlan(config(), layout, rules), context, weights_, 9);
      EXPECT_LE(largest_difference(all_logits(*model, ids(2, 9), 2), reference),
                1e-4 * largest(reference));
    }
  }
}

TEST(TokenTypes, MoveTheLogitsOfModelsThatDistinguishThem) {
  const Checkpoint checkpoint(std::string(PORTOLAN_TEST_DATA) + "/models/bert-tiny");
  const auto weights = make_checkpoint_weights(checkpoint);
  const std::vector<std::int32_t> ids{5, 6, 7, 8};
  for (const ParallelLayout& layout : layouts(test_world().size())) {
    const ParallelContext context(test_world(), layout);
    const auto model = build(checkpoint.config(), layout, context, *weights, 4);
    const auto logits = [&](std::vector<std::int32_t> types) {
      return all_logits(*model, ids, 1, {.token_types = std::move(types)});
    };
    EXPECT_EQ(logits({}), logits({0, 0, 0, 0}));
    EXPECT_GT(largest_difference(logits({}), logits({0, 0, 1, 1})), 0.1);
  }
}

/// Widths and a vocabulary that leave some ranks nothing.
TEST(NarrowModels, GiveTheLogitsOfOneRankWhereRanksHaveNoPart) {
  const auto single = make_single_communicator();
  const ParallelContext alone_context(*single, {});
  RandomWeightsAndBiases weights(5);
  for (const std::int64_t vocabulary : {1, 2, 3}) {
    LlamaConfig config = uneven_llama();
    config.mlp_bias = true;
    config.intermediate_size = 1;
    config.vocab_size = vocabulary;
    const std::vector<std::int32_t> ids = random_token_ids(3, 2, 5, vocabulary);
    const auto alone = build(config, {}, alone_context, weights, 5);
    const std::vector<float> reference = all_logits(*alone, ids, 2);
    for (const ParallelLayout& layout : layouts(test_world().size())) {
      SCOPED_TRACE(text(layout) + ", " + std::to_string(vocabulary) + " tokens known");
      const ParallelContext context(test_world(), layout);
      const auto model = build(config, layout, context, weights, 5);
      EXPECT_LE(largest_difference(all_logits(*model, ids, 2), reference),
                1e-4 * largest(reference));
    }
  }
}

TEST(Replicas, LeaveGatheredLogitsAsTheyAre) {
  const auto single = make_single_communicator();
  const ParallelContext alone_context(*single, {});
  const ModelConfig config = uneven_llama();
  RandomWeightsAndBiases weights(5);
  const std::vector<std::int32_t> ids = random_token_ids(3, 2, 5, config.common().vocab_size);
  const auto alone = build(config, {}, alone_context, weights, 5);
  const int ranks = test_world().size();
  for (const int tensor : {1, 2}) {
    if (ranks % tensor != 0) continue;
    const ParallelLayout layout{{.data = ranks / tensor, .context = 1, .tensor = tensor}, false};
    SCOPED_TRACE(text(layout));
    const ParallelContext context(test_world(), layout);
    const auto model = build(config, layout, context, weights, 5);
    const std::vector<float> reference = all_logits(*alone, ids, 2);
    EXPECT_LE(largest_difference(all_logits(*model, ids, 2), reference), 1e-4 * largest(reference));
    const std::vector<float> expected = values_of(alone->next_logits(ids, 2, {}));
    EXPECT_LE(largest_difference(values_of(model->next_logits(ids, 2, {})), expected),
              1e-4 * largest(reference));
  }
}

TEST(ForwardOptions, ThatDoNotFitTheTokensAreRefusedOnEveryRank) {
  const ParallelLayout layout = layouts(test_world().size()).front();
  const ParallelContext context(test_world(), layout);
  const auto weights = make_random_weights(0);
  for (const char* preset : {"tiny", "roberta-tiny"}) {
    SCOPED_TRACE(preset);
    const auto model = build(preset_config(preset), layout, context, *weights, 8);
    const std::vector<std::int32_t> ids{1, 2, 3, 4};
    const auto refuses = [&](const std::vector<std::int32_t>& tokens,
                             const ForwardOptions& options) {
      EXPECT_THROW(static_cast<void>(model->forward(tokens, 1, options)), UsageError);
    };
    refuses({1, 2, 256}, {});
    refuses({1, -1, 3}, {});
    refuses(std::vector<std::int32_t>(9, 1), {});
    for (const KeyRange& tokens : {KeyRange{-1, 4}, KeyRange{0, 5}, KeyRange{3, 2}}) {
      refuses(ids, {.real_tokens = {tokens}});
    }
    refuses(ids, {.real_tokens = {{0, 4}, {0, 4}}});
    refuses(ids, {.token_types = {0, 0, 0}});
    refuses(ids, {.token_types = {0, 0, 0, 5}});
  }
}

}  // namespace
}  // namespace portolan
