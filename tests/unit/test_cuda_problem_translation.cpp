// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <vector>

#include "attention/cuda/problem_translation.hpp"
#include "core/device.hpp"

namespace portolan::cuda {
namespace {

AttentionProblem problem_of(std::int64_t batch, std::int64_t query_tokens, std::int64_t key_tokens,
                            DType dtype = DType::bf16) {
  const Device device{DeviceKind::serial, 0};
  AttentionProblem problem{.q = Tensor::empty({batch, query_tokens, 4, 64}, dtype, device),
                           .k = Tensor::empty({batch, key_tokens, 2, 64}, dtype, device),
                           .v = Tensor::empty({batch, key_tokens, 2, 64}, dtype, device)};
  problem.scale = 0.25F;
  return problem;
}

using Visibility = std::vector<std::vector<bool>>;

/// Row by row what the problem's mask says.
Visibility wanted(const AttentionProblem& problem) {
  const auto tokens_of = [](const std::vector<TokenRun>& runs) {
    std::vector<TokenRun> tokens;
    for (const TokenRun& run : runs) {
      for (std::int64_t i = 0; i < run.length; ++i) {
        tokens.push_back({run.position + i, 1, run.sequence});
      }
    }
    return tokens;
  };
  const AttentionMask& mask = problem.mask;
  Visibility result;
  for (const TokenRun& query : tokens_of(mask.query_runs)) {
    result.emplace_back();
    for (const TokenRun& key : tokens_of(mask.key_runs)) {
      const std::int64_t distance = query.position - key.position;
      const bool causal = mask.causal || mask.window > 0;
      result.back().push_back(query.sequence == key.sequence && (!causal || distance >= 0) &&
                              (mask.window == 0 || distance < mask.window));
    }
  }
  return result;
}

/// The same from the calls that were made of it.
Visibility translated(const AttentionProblem& problem, const TranslatedProblem& calls) {
  Visibility result(static_cast<std::size_t>(problem.q.dim(1)),
                    std::vector<bool>(static_cast<std::size_t>(problem.k.dim(1)), false));
  for (const AttentionPart& part : calls.parts) {
    AttentionShape shape = part.shape;
    const bool packed = !calls.query_offsets.empty();
    if (packed) {
      shape.query_offsets = calls.query_offsets.data();
      shape.key_offsets = calls.key_offsets.data();
    }
    for (int i = 0; i < (packed ? static_cast<int>(shape.batch) : 1); ++i) {
      const AttentionEntry entry(shape, i);
      for (int query = 0; query < entry.mask.queries; ++query) {
        const IndexRange keys = entry.mask.keys_of(query);
        for (int key = keys.begin; key < keys.end; ++key) {
          result.at(static_cast<std::size_t>(part.query_rows.begin + entry.query_row + query))
              .at(static_cast<std::size_t>(part.key_rows.begin + entry.key_row + key)) = true;
        }
      }
    }
  }
  return result;
}

/// Of runs with these lengths; fills the problem's tensors to fit.
AttentionProblem masked(std::vector<TokenRun> query_runs, std::vector<TokenRun> key_runs,
                        bool causal = true, std::int64_t window = 0) {
  const auto tokens = [](const std::vector<TokenRun>& runs) {
    std::int64_t sum = 0;
    for (const TokenRun& run : runs) sum += run.length;
    return sum;
  };
  AttentionProblem problem = problem_of(1, tokens(query_runs), tokens(key_runs));
  problem.mask.causal = causal;
  problem.mask.window = window;
  problem.mask.query_runs = std::move(query_runs);
  problem.mask.key_runs = std::move(key_runs);
  return problem;
}

void expect_parts(const AttentionProblem& problem, std::size_t parts) {
  const TranslatedProblem calls = translate(problem);
  EXPECT_EQ(calls.reason, "");
  EXPECT_EQ(calls.parts.size(), parts);
  EXPECT_EQ(translated(problem, calls), wanted(problem));
  int next = 0;
  for (const AttentionPart& part : calls.parts) {
    EXPECT_EQ(part.query_rows.begin, next);
    next = part.query_rows.end;
  }
  EXPECT_EQ(next, problem.q.dim(1));
}

TEST(CudaProblemTranslation, TakesWholeSequences) {
  const AttentionProblem problem = problem_of(3, 5, 9, DType::f16);
  const TranslatedProblem calls = translate(problem);
  EXPECT_EQ(calls.reason, "");
  ASSERT_EQ(calls.parts.size(), 1U);
  EXPECT_TRUE(calls.is_whole(problem));
  const AttentionShape& shape = calls.parts[0].shape;
  EXPECT_EQ(shape.batch, 3);
  EXPECT_EQ(shape.query_tokens, 5);
  EXPECT_EQ(shape.key_tokens, 9);
  EXPECT_EQ(shape.heads, 4);
  EXPECT_EQ(shape.key_heads, 2);
  EXPECT_EQ(shape.head_dim, 64);
  EXPECT_EQ(shape.element, AttentionElement::f16);
  EXPECT_TRUE(shape.causal);
  EXPECT_EQ(shape.scale, 0.25F);
  EXPECT_TRUE(calls.query_offsets.empty());
}

TEST(CudaProblemTranslation, RunsThatEndTogetherMayStartAnywhere) {
  expect_parts(masked({{104, 4}}, {{100, 8}}), 1);
  expect_parts(masked({{104, 4}}, {{100, 8}}, true, 3), 1);
  expect_parts(masked({{96, 12}}, {{100, 8}}), 1);  // queries that see no key
}

TEST(CudaProblemTranslation, QueriesBehindAllKeysNeedNoMask) {
  const AttentionProblem behind = masked({{50, 4}}, {{0, 8}});
  expect_parts(behind, 1);
  EXPECT_FALSE(translate(behind).parts[0].shape.causal);
  expect_parts(masked({{50, 4}}, {{0, 8}}, true, 100), 1);
  EXPECT_EQ(translate(masked({{50, 4}}, {{0, 8}}, true, 100)).parts[0].shape.window, 0);
  const AttentionProblem out_of_reach = masked({{50, 4}}, {{0, 8}}, true, 20);
  expect_parts(out_of_reach, 1);
  EXPECT_FALSE(translate(out_of_reach).is_whole(out_of_reach));
}

TEST(CudaProblemTranslation, ZigzagShardsAreParts) {
  // Four tokens a run, of 8 runs on 4 ranks: rank r has runs r and 7 - r.
  const auto shard = [](std::int64_t rank) {
    return std::vector<TokenRun>{{4 * rank, 4}, {4 * (7 - rank), 4}};
  };
  for (std::int64_t queries = 0; queries < 4; ++queries) {
    for (std::int64_t keys = 0; keys < 4; ++keys) {
      // The later run of an earlier rank is hidden from both runs.
      expect_parts(masked(shard(queries), shard(keys)), queries > keys ? 1 : 2);
      expect_parts(masked(shard(queries), shard(keys), false), 1);
    }
  }
}

TEST(CudaProblemTranslation, OtherMasksAreRefused) {
  for (const AttentionProblem& problem :
       {masked({{2, 4}}, {{0, 8}}),                       // queries among the keys
        masked({{6, 4}}, {{0, 4}, {4, 4}, {8, 4}}),       // of which two runs are cut
        masked({{2, 4}}, {{0, 3}, {3, 3}}),               // the first run is cut, too
        masked({{20, 4}}, {{0, 4}, {20, 4}}, true, 22),   // a window counts the gap
        masked({{4, 4}}, {{0, 4}, {100, 4}, {4, 4}})}) {  // what is seen has a gap
    EXPECT_NE(translate(problem).reason, "");
  }
  expect_parts(masked({{2, 4}}, {{0, 8}}, false), 1);
}

TEST(CudaProblemTranslation, PackedSequencesBecomeOffsets) {
  const AttentionProblem problem = masked({{0, 3, 5}, {7, 4, 9}}, {{0, 3, 5}, {4, 7, 9}});
  expect_parts(problem, 1);
  const TranslatedProblem calls = translate(problem);
  EXPECT_TRUE(calls.is_whole(problem));
  EXPECT_EQ(calls.parts[0].shape.batch, 2);
  EXPECT_EQ(calls.parts[0].shape.query_tokens, 4);
  EXPECT_EQ(calls.parts[0].shape.key_tokens, 7);
  EXPECT_EQ(calls.query_offsets, (std::vector<std::int32_t>{0, 3, 7}));
  EXPECT_EQ(calls.key_offsets, (std::vector<std::int32_t>{0, 3, 10}));
  expect_parts(masked({{0, 3, 5}, {7, 4, 9}}, {{0, 3, 5}, {4, 7, 9}}, true, 2), 1);
  expect_parts(masked({{0, 3, 5}, {0, 4, 9}}, {{0, 3, 5}, {4, 7, 9}}, false), 1);
  expect_parts(masked({{0, 3, 5}, {0, 0, 9}}, {{0, 3, 5}, {4, 7, 9}}), 1);

  for (const AttentionProblem& refused :
       {masked({{0, 3, 5}, {7, 4, 9}}, {{0, 3, 5}, {5, 7, 9}}),  // ends apart
        masked({{0, 3, 5}, {7, 4, 9}}, {{0, 3, 9}, {4, 7, 5}}),  // another order
        masked({{0, 3, 5}, {7, 4, 9}}, {{0, 10, 5}}),            // a sequence is missing
        masked({{0, 3, 5}, {3, 4, 5}, {0, 2, 9}}, {{0, 3, 5}, {3, 4, 5}, {0, 2, 9}})}) {
    EXPECT_NE(translate(refused).reason, "");
  }
  AttentionProblem several = problem_of(2, 7, 10);
  several.mask = problem.mask;
  EXPECT_NE(translate(several).reason, "");
}

TEST(CudaProblemTranslation, CachedRowsAreHandedOnWithAllKeys) {
  for (const std::int64_t query_tokens : {1, 5}) {
    for (const std::int64_t window : {0, 4, 100}) {
      AttentionProblem problem = problem_of(3, query_tokens, 9);
      problem.mask.window = window;
      problem.cached_rows = Tensor::empty({3, 2}, DType::i32, problem.q.device());
      const TranslatedProblem calls = translate(problem);
      EXPECT_EQ(calls.reason, "");
      EXPECT_TRUE(calls.is_whole(problem));
      const AttentionShape& shape = calls.parts.at(0).shape;
      EXPECT_EQ(shape.cached_rows, problem.cached_rows.data<std::int32_t>());
      EXPECT_EQ(shape.query_tokens, query_tokens);
      // A mask is left out only if it hides nothing of rows of any length.
      const ScoreMask said{static_cast<int>(query_tokens), 9, true, static_cast<int>(window)};
      const ScoreMask kept{static_cast<int>(query_tokens), 9, shape.causal,
                           static_cast<int>(shape.window)};
      for (int keys = 0; keys <= 9; ++keys) {
        for (int query = 0; query < query_tokens; ++query) {
          const auto seen = [&](ScoreMask mask) {
            mask.keys = keys;
            return mask.keys_of(query);
          };
          EXPECT_EQ(seen(kept).size(), seen(said).size());
          EXPECT_EQ(seen(kept).begin, seen(said).begin);
        }
      }
    }
  }
}

TEST(CudaProblemTranslation, WhatKernelsCannotReadIsRefused) {
  EXPECT_NE(translate(problem_of(1, 4, 8, DType::f32)).reason, "");
  AttentionProblem dropped = problem_of(1, 4, 8);
  dropped.dropout.probability = 0.1F;
  EXPECT_NE(translate(dropped).reason, "");
  AttentionProblem padded = problem_of(1, 4, 8);
  padded.mask.key_ranges = {{1, 8}};
  EXPECT_NE(translate(padded).reason, "");
  AttentionStatistics statistics;
  AttentionProblem counted = problem_of(1, 4, 8);
  counted.statistics = &statistics;
  EXPECT_NE(translate(counted).reason, "");

  AttentionProblem shifted = problem_of(1, 4, 8);
  shifted.q = Tensor::empty({1, 4, 4, 68}, DType::bf16, shifted.q.device()).slice(3, 4, 68);
  EXPECT_FALSE(has_aligned_rows(shifted.q));
  EXPECT_NE(translate(shifted).reason, "");
  shifted.q = Tensor::empty({1, 4, 4, 72}, DType::bf16, shifted.q.device()).slice(3, 8, 72);
  EXPECT_TRUE(has_aligned_rows(shifted.q));
  EXPECT_EQ(translate(shifted).reason, "");
  EXPECT_EQ(strides_of(shifted.q).head, 72);
  EXPECT_EQ(strides_of(shifted.q).token, 4 * 72);
}

}  // namespace
}  // namespace portolan::cuda
