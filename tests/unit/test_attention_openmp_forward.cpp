// SPDX-License-Identifier: Apache-2.0
#if defined(PORTOLAN_HAS_OPENMP)
#include <gtest/gtest.h>

#include "attention/openmp/openmp_attention.hpp"
#include "tests/unit/attention_openmp_testing.hpp"

namespace portolan {
namespace {

using testing_support::GradientCase;
using testing_support::GradientSetup;
using testing_support::make_gradient_setup;
using testing_support::OpenmpThreads;
using testing_support::values_of;

void check(const GradientCase& test_case) {
  SCOPED_TRACE(test_case.to_string());
  const GradientSetup setup = make_gradient_setup(test_case);
  make_openmp_flash_attention()->forward(setup.tensors.problem, setup.tensors.out,
                                         setup.tensors.log_sum_exp);
  testing_support::expect_forward(test_case, setup);
}

TEST(AttentionOpenmpForward, RandomProblems) {
  std::mt19937_64 generator(12);
  for (int trial = 0; trial < 150; ++trial) {
    const GradientCase c = testing_support::random_case(generator, 300);
    const OpenmpThreads threads(1 + trial % 4);
    SCOPED_TRACE("trial " + std::to_string(trial));
    check(c);
    if (testing::Test::HasFailure()) return;
  }
}

TEST(AttentionOpenmpForward, FewQueriesOverManyKeys) {
  std::mt19937_64 generator(13);
  for (const std::int64_t query_tokens : {1, 2, 5, 33}) {
    for (const std::int64_t heads : {1, 6, 12}) {
      for (const DType dtype : {DType::f32, DType::bf16}) {
        GradientCase c{.base = {.batch = 2,
                                .query_tokens = query_tokens,
                                .key_tokens = 2300,
                                .heads = heads,
                                .key_heads = heads % 3 == 0 ? 3 : 1,
                                .head_dim = query_tokens % 2 == 0 ? 64 : 37}};
        c.base.dtype = c.base.out_dtype = dtype;
        const std::uint64_t choice = generator() % 4;
        if (choice == 1) c.base.mask.window = 1500;
        if (choice == 2) c.base.mask.key_ranges = {{0, 2300}, {1100, 1900}};
        if (choice == 3) c.base.dropout = {.probability = 0.5F, .key = {1, 2}};
        const OpenmpThreads threads(1 + static_cast<int>(generator() % 4));
        check(c);
      }
    }
  }
}

TEST(AttentionOpenmpForward, EqualBitsForAnyTiles) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const std::int64_t query_tokens : {3, 700}) {
      GradientCase c{.base = {.query_tokens = query_tokens,
                              .key_tokens = 1900,
                              .heads = 4,
                              .key_heads = 2,
                              .head_dim = 64}};
      c.base.dtype = dtype;
      GradientSetup setup = make_gradient_setup(c);
      AttentionProblem& problem = setup.tensors.problem;
      const OpenmpThreads threads(2);
      const auto run = [&] {
        make_openmp_flash_attention()->forward(problem, setup.tensors.out,
                                               setup.tensors.log_sum_exp);
        return std::pair(values_of(setup.tensors.out), values_of(setup.tensors.log_sum_exp));
      };
      const auto built_in = run();
      for (const AttentionTiles& tiles :
           {AttentionTiles{.block_kib = 1, .forward_chunk = 1},
            AttentionTiles{.block_kib = 200, .forward_chunk = 5},
            AttentionTiles{.block_kib = kMostBlockKib, .forward_chunk = kMostChunkTiles}}) {
        problem.tiles = tiles;
        ASSERT_EQ(run(), built_in) << tiles.to_string();
      }
    }
  }
}

TEST(AttentionOpenmpForward, TilesOfTheTableServeTheirDtypeAndHeadDimOnly) {
  const auto scratch_of = [](const AttentionTileTable& table, std::int64_t head_dim) {
    GradientCase c{.base = {.query_tokens = 900,
                            .key_tokens = 900,
                            .heads = 1,
                            .key_heads = 1,
                            .head_dim = head_dim}};
    const GradientSetup setup = make_gradient_setup(c);
    return make_openmp_flash_attention(AttentionMethod::flash, table)
        ->workspace_bytes(setup.tensors.problem);
  };
  const OpenmpThreads threads(1);
  const AttentionTileTable table(
      "a processor", {{.dtype = DType::f32, .head_dim = 64, .tiles = {.forward_chunk = 2}}});
  EXPECT_LT(scratch_of(table, 64), scratch_of({}, 64));
  EXPECT_EQ(scratch_of(table, 48), scratch_of({}, 48));
}

TEST(AttentionOpenmpForward, EqualBitsForAnyNumberOfThreads) {
  for (const std::int64_t query_tokens : {1, 7, 60, 500}) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      GradientCase c{.base = {.query_tokens = query_tokens,
                              .key_tokens = 2500,
                              .heads = 4,
                              .key_heads = 2,
                              .head_dim = 40}};
      c.base.dtype = dtype;
      c.base.dropout = {.probability = 0.25F, .key = {3, 4}};
      const GradientSetup setup = make_gradient_setup(c);
      std::vector<double> first_out;
      std::vector<double> first_lse;
      for (int thread_count = 1; thread_count <= 4; ++thread_count) {
        const OpenmpThreads threads(thread_count);
        for (int repeat = 0; repeat < 2; ++repeat) {
          make_openmp_flash_attention()->forward(setup.tensors.problem, setup.tensors.out,
                                                 setup.tensors.log_sum_exp);
          const std::vector<double> out = values_of(setup.tensors.out);
          const std::vector<double> lse = values_of(setup.tensors.log_sum_exp);
          if (first_out.empty()) {
            first_out = out;
            first_lse = lse;
          }
          ASSERT_EQ(out, first_out) << query_tokens << " queries, " << thread_count << " threads";
          ASSERT_EQ(lse, first_lse) << query_tokens << " queries, " << thread_count << " threads";
        }
      }
    }
  }
}

/// Tiles of `query_tile` x `key_tile` scores, cut within runs, that are seen in part or whole.
struct TileCounts {
  std::int64_t visited = 0;
  std::int64_t cut = 0;
};
TileCounts count_tiles(const AttentionProblem& problem, const reference::AttentionInput& input,
                       std::int64_t query_tile, std::int64_t key_tile) {
  const std::int64_t query_tokens = problem.q.dim(1);
  const std::int64_t key_tokens = problem.k.dim(1);
  const auto cut = [](const std::vector<TokenRun>& runs, std::int64_t tokens, std::int64_t tile) {
    std::vector<std::pair<std::int64_t, std::int64_t>> pieces;
    std::int64_t row = 0;
    for (const TokenRun& run : runs.empty() ? std::vector<TokenRun>{{0, tokens}} : runs) {
      for (std::int64_t begin = 0; begin < run.length; begin += tile) {
        pieces.emplace_back(row + begin, row + std::min(begin + tile, run.length));
      }
      row += run.length;
    }
    return pieces;
  };
  TileCounts counts;
  for (std::int64_t b = 0; b < input.batch; ++b) {
    for (std::int64_t head = 0; head < input.heads; ++head) {
      for (const auto& [row, row_end] : cut(problem.mask.query_runs, query_tokens, query_tile)) {
        for (const auto& [key, key_end] : cut(problem.mask.key_runs, key_tokens, key_tile)) {
          std::int64_t sum = 0;
          for (std::int64_t i = row; i < row_end; ++i) {
            for (std::int64_t j = key; j < key_end; ++j) {
              sum += reference::sees(input, b, head, i, j) ? 1 : 0;
            }
          }
          counts.visited += sum > 0 ? 1 : 0;
          counts.cut += sum > 0 && sum < (row_end - row) * (key_end - key) ? 1 : 0;
        }
      }
    }
  }
  return counts;
}

TEST(AttentionOpenmpStatistics, TilesVisitedAreThoseNotHidden) {
  std::mt19937_64 generator(14);
  for (int trial = 0; trial < 60; ++trial) {
    GradientCase c = testing_support::random_case(generator, 400);
    c.base.heads = c.base.key_heads;  // a tile is then of one head
    if (c.base.mask.blocks) {
      c.base.mask.blocks = nullptr;
      const std::int64_t rows = (c.base.query_tokens + 39) / 40;
      const std::int64_t columns = (c.base.key_tokens + 63) / 64;
      std::vector<std::uint8_t> flags(static_cast<std::size_t>(c.base.heads * rows * columns));
      for (std::uint8_t& flag : flags) flag = generator() % 4 == 0 ? 1 : 0;
      c.base.mask.blocks = std::make_shared<const BlockMap>(
          block_map_from_flags(c.base.heads, rows, columns, 40, 64, flags.data()));
    }
    SCOPED_TRACE(c.to_string());
    const OpenmpThreads threads(1 + trial % 4);
    const GradientSetup setup = make_gradient_setup(c);
    AttentionProblem problem = setup.tensors.problem;
    AttentionStatistics forward;
    problem.statistics = &forward;
    make_openmp_flash_attention()->forward(problem, setup.tensors.out, {});
    AttentionStatistics backward;
    problem.statistics = &backward;
    make_openmp_flash_attention_backward()->backward(problem, setup.tensors.gradients);
    for (const AttentionStatistics& found : {forward, backward}) {
      const TileCounts expected =
          count_tiles(problem, setup.tensors.reference, found.query_tile, found.key_tile);
      ASSERT_EQ(found.tiles_visited, expected.visited) << "trial " << trial;
      ASSERT_EQ(found.tiles_compared, expected.cut) << "trial " << trial;
    }
  }
}

TEST(AttentionOpenmpStatistics, WindowVisitsTilesInProportionToTheLength) {
  const Device device{DeviceKind::cpu, 0};
  const auto visited = [&](std::int64_t tokens) {
    const Tensor tensor = Tensor::empty({1, tokens, 1, 16}, DType::f32, device);
    testing_support::set_values(tensor, std::vector<double>(static_cast<std::size_t>(tokens * 16)));
    AttentionStatistics statistics;
    const AttentionProblem problem{
        .q = tensor, .k = tensor, .v = tensor, .mask = {.window = 512}, .statistics = &statistics};
    make_openmp_flash_attention(AttentionMethod::window)
        ->forward(problem, Tensor::empty(tensor.shape(), DType::f32, device), {});
    return static_cast<double>(statistics.tiles_visited);
  };
  EXPECT_NEAR(visited(16384) / visited(8192), 2.0, 0.05);
}

TEST(AttentionOpenmpMethods, WindowAndBlockSparseWantTheirMask) {
  const Tensor tensor = Tensor::empty({1, 4, 1, 16}, DType::f32, {DeviceKind::cpu, 0});
  AttentionProblem problem{.q = tensor, .k = tensor, .v = tensor};
  for (const AttentionMethod method : {AttentionMethod::window, AttentionMethod::block_sparse}) {
    EXPECT_NE(make_openmp_flash_attention(method)->unsupported_reason(problem), "");
    EXPECT_NE(make_openmp_flash_attention_backward(method)->unsupported_reason(problem), "");
    EXPECT_EQ(make_openmp_flash_attention(method)->method(), method);
  }
  problem.mask.window = 2;
  EXPECT_EQ(make_openmp_flash_attention(AttentionMethod::window)->unsupported_reason(problem), "");
  problem.mask.blocks = std::make_shared<const BlockMap>();
  EXPECT_EQ(make_openmp_flash_attention_backward(AttentionMethod::block_sparse)
                ->unsupported_reason(problem),
            "");
}

}  // namespace
}  // namespace portolan
#endif
