// SPDX-License-Identifier: Apache-2.0
// Generation under every mode that the number of ranks allows, against golden tokens. Run under
// mpirun with 1, 2, 3 and 4 ranks.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/error.hpp"
#include "core/json_file.hpp"
#include "models/generation/generator.hpp"
#include "models/generation/recorded_decoding.hpp"
#include "models/registry.hpp"
#include "parallel/key_value_cache.hpp"
#include "tests/mpi/layouts.hpp"
#include "tests/mpi/test_runtime.hpp"

namespace portolan {
namespace {

constexpr std::int64_t kNewTokens = 32;
constexpr std::int64_t kLongest = 96;

struct GoldenText {
  TokenIds prompt;
  TokenIds continuation;
};

std::vector<GoldenText> golden_texts(const std::filesystem::path& folder) {
  std::vector<GoldenText> texts;
  const nlohmann::json document = read_json_file(folder / "expected.json");
  for (const nlohmann::json& text : document.at("generation")) {
    texts.push_back({text.at("prompt_ids").get<TokenIds>(), text.at("ids").get<TokenIds>()});
  }
  return texts;
}

std::vector<TokenIds> prompts_of(const std::vector<GoldenText>& texts) {
  std::vector<TokenIds> prompts;
  for (const GoldenText& text : texts) prompts.push_back(text.prompt);
  return prompts;
}

class GoldenGeneration : public ::testing::TestWithParam<std::string> {
 protected:
  GoldenGeneration()
      : folder_(std::string(PORTOLAN_TEST_DATA) + "/models/" + GetParam()),
        checkpoint_(folder_),
        texts_(golden_texts(folder_)) {}

  /// Calls check(model) for the model under every layout.
  template <class Check>
  void under_every_layout(const Check& check) const {
    for (const ParallelLayout& layout : layouts(test_world().size())) {
      SCOPED_TRACE(layout.mesh.to_string() +
                   (layout.sequence_parallel ? " sequence parallel" : ""));
      const ParallelContext context(test_world(), layout);
      const auto weights = make_checkpoint_weights(checkpoint_);
      check(*make_model({.plan = ModelPlan(checkpoint_.config(), layout),
                         .context = context,
                         .weights = *weights,
                         .dtype = DType::f32,
                         .device = test_device(),
                         .maximum_length = kLongest}));
    }
  }

  [[nodiscard]] GenerationOptions greedy() const {
    const std::vector<std::int64_t>& ends = checkpoint_.config().common().eos_token_ids;
    return {.max_new_tokens = kNewTokens, .end_ids = {ends.begin(), ends.end()}};
  }

  std::filesystem::path folder_;
  Checkpoint checkpoint_;
  std::vector<GoldenText> texts_;
};

TEST_P(GoldenGeneration, GreedyTokensOfABatchOfUnequalPromptsAreTheReferences) {
  ASSERT_FALSE(texts_.empty());
  under_every_layout([&](const Model& model) {
    for (const bool use_cache : {true, false}) {
      const auto scorer = make_scorer(model, kLongest, {.use_cache = use_cache});
      const auto found = generate(*scorer, prompts_of(texts_), greedy());
      for (std::size_t i = 0; i < texts_.size(); ++i) {
        EXPECT_EQ(found[i].ids, texts_[i].continuation)
            << (use_cache ? "with" : "without") << " a cache";
      }
    }
  });
}

TEST_P(GoldenGeneration, OneBeamFindsTheGreedyTokensAndMoreBeamsTheSameWithoutACache) {
  under_every_layout([&](const Model& model) {
    const auto cached = make_scorer(model, kLongest);
    const auto whole = make_scorer(model, kLongest, {.use_cache = false});
    GenerationOptions options = greedy();
    const GeneratedSequence one = beam_search(*cached, texts_[0].prompt, options);
    EXPECT_EQ(one.ids, texts_[0].continuation);
    options.beams = 3;
    options.max_new_tokens = 12;
    EXPECT_EQ(beam_search(*cached, texts_[0].prompt, options).ids,
              beam_search(*whole, texts_[0].prompt, options).ids);
  });
}

/// Tokens brought in pieces leave the logits that they leave all at once.
TEST_P(GoldenGeneration, APromptInPiecesGivesTheLogitsOfTheWhole) {
  TokenIds ids = texts_[0].prompt;
  ids.insert(ids.end(), texts_[0].continuation.begin(), texts_[0].continuation.end());
  ids.insert(ids.end(), texts_[0].prompt.begin(), texts_[0].prompt.end());
  under_every_layout([&](const Model& model) {
    const std::vector<float> expected = values_of(model.next_logits(ids, 1, {}));
    for (const std::size_t piece : {std::size_t{1}, std::size_t{7}, ids.size() - 1}) {
      KeyValueCache cache = model.make_cache(1, kLongest);
      Tensor found;
      for (std::size_t begin = 0; begin < ids.size(); begin += piece) {
        const std::size_t count = std::min(piece, ids.size() - begin);
        found = model.next_logits(std::span(ids).subspan(begin, count), 1, {.cache = &cache});
      }
      EXPECT_EQ(cache.length(), static_cast<std::int64_t>(ids.size()));
      const std::vector<float> logits = values_of(found);
      ASSERT_EQ(logits.size(), expected.size());
      for (std::size_t i = 0; i < expected.size(); ++i) ASSERT_NEAR(logits[i], expected[i], 1e-4);
    }
  });
}

/// Recorded decoding serves ranks that work alone; with more it is refused, not left out.
TEST_P(GoldenGeneration, RecordedDecodingFindsTheReferencesTokens) {
  under_every_layout([&](const Model& model) {
    const ScorerOptions recorded{.record = true};
    if (test_world().size() > 1) {
      EXPECT_THROW(static_cast<void>(make_scorer(model, kLongest, recorded)), UsageError);
      return;
    }
    const auto scorer = make_scorer(model, kLongest, recorded);
    for (int turn = 0; turn < 2; ++turn) {  // the second begins with memory of the first
      const auto found = generate(*scorer, prompts_of(texts_), greedy());
      for (std::size_t i = 0; i < texts_.size(); ++i) {
        EXPECT_EQ(found[i].ids, texts_[i].continuation);
      }
    }
    const auto plain = make_scorer(model, kLongest, {.record = false});
    GenerationOptions options = greedy();
    options.beams = 3;
    options.max_new_tokens = 12;
    EXPECT_EQ(beam_search(*scorer, texts_[0].prompt, options).ids,
              beam_search(*plain, texts_[0].prompt, options).ids);
  });
}

/// Nothing but device memory says how far a recorded pass has come: the cache here counts no token
/// after the first two, as its counts of the time of recording are all that a replay knows.
TEST_P(GoldenGeneration, ARecordedPassDependsOnNothingThatTheHostCounts) {
  under_every_layout([&](const Model& model) {
    if (test_world().size() > 1) {
      KeyValueCache cache = model.make_cache(1, kLongest);
      EXPECT_THROW(RecordedDecoding(model, cache), UsageError);
      return;
    }
    TokenIds ids = texts_[0].prompt;
    ids.insert(ids.end(), texts_[0].continuation.begin(), texts_[0].continuation.end());
    const std::int64_t known = std::ssize(texts_[0].prompt);
    KeyValueCache plain = model.make_cache(1, kLongest);
    KeyValueCache frozen = model.make_cache(1, kLongest);
    const std::span<const std::int32_t> prompt(texts_[0].prompt);
    static_cast<void>(model.next_logits(prompt, 1, {.cache = &plain}));
    static_cast<void>(model.next_logits(prompt, 1, {.cache = &frozen}));
    const Tensor inputs = Tensor::empty({4}, DType::i32, model.device());
    const Tensor logits =
        Tensor::empty({1, model.plan().dimensions().vocab_size}, DType::f32, model.device());
    frozen.read_rows_from(inputs.slice(0, 2, 4).view({1, 2}));
    frozen.extend(1);
    Backend& backend = backend_of(model.device());
    std::unique_ptr<RecordedWork> pass;
    for (std::int64_t t = known; t < std::ssize(ids); ++t) {
      const std::span<const std::int32_t> next =
          std::span<const std::int32_t>(ids).subspan(static_cast<std::size_t>(t), 1);
      const std::vector<std::int32_t> positions = model.all_positions(next, 1, {.cache = &plain});
      const std::vector<std::int32_t> values{next[0], positions[0], 0,
                                             static_cast<std::int32_t>(t + 1)};
      backend.copy_bytes(inputs.raw(), values.data(), inputs.bytes(), Queue::compute);
      if (pass) {
        pass->start();
      } else {
        pass = backend.run_and_record([&] {
          model.enqueue_next(inputs.slice(0, 0, 1).view({1, 1}), inputs.slice(0, 1, 2), frozen,
                             logits);
        });
      }
      const std::vector<float> expected = values_of(model.next_logits(next, 1, {.cache = &plain}));
      const std::vector<float> found = values_of(logits);
      ASSERT_EQ(found.size(), expected.size());
      for (std::size_t i = 0; i < expected.size(); ++i) ASSERT_NEAR(found[i], expected[i], 1e-4);
    }
    EXPECT_EQ(frozen.length(), known + 1);
  });
}

TEST_P(GoldenGeneration, TheCacheTakesTheBytesOfThePlan) {
  constexpr std::int64_t kTokens = 777;
  under_every_layout([&](const Model& model) {
    EXPECT_EQ(model.make_cache(3, kTokens).bytes(),
              model.plan().cache_bytes(test_world().rank(), 3, kTokens, model.dtype()));
  });
}

INSTANTIATE_TEST_SUITE_P(Models, GoldenGeneration,
                         ::testing::Values("llama-tiny-gqa", "llama-tiny-mha-bf16",
                                           "llama-tiny-bias", "llama3-tiny-tied",
                                           "mistral-tiny-swa", "gpt-bigcode-tiny"),
                         [](const auto& name) {
                           std::string text = name.param;
                           std::ranges::replace(text, '-', '_');
                           return text;
                         });

TEST(KeyValueCache, RanksShareTokensThatFollowInRunsAndCopiesKeepThem) {
  const int ranks = 3;
  for (int rank = 0; rank < ranks; ++rank) {
    KeyValueCache cache({.layers = 1, .batch = 2, .tokens = 300, .kv_heads = 1, .head_dim = 1},
                        DType::f32, test_device(), rank, ranks);
    const std::vector<TokenRun> own = {{.position = rank, .length = 1}};
    cache.extend(ranks, own);
    std::int64_t held = 1;
    for (std::int64_t position = ranks; position < 300; position += 9) {
      const std::int64_t count = std::min<std::int64_t>(9, 300 - position);
      cache.extend(count);
      for (std::int64_t p = position; p < position + count; ++p) {
        held += p / KeyValueCache::kRunTokens % ranks == rank ? 1 : 0;
      }
      EXPECT_EQ(cache.held_tokens(), held);
    }
    std::int64_t tokens = 0;
    std::int64_t end = 0;
    for (const TokenRun& run : cache.runs()) {
      EXPECT_GE(run.position, end);
      end = run.position + run.length;
      tokens += run.length;
    }
    EXPECT_EQ(tokens, held);
    EXPECT_THROW(cache.extend(1), UsageError);
  }
}

}  // namespace
}  // namespace portolan
