// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <vector>

#include "core/error.hpp"
#include "tests/unit/emulated_sm80_attention.hpp"

/// The sm_80 kernels' own code on emulated blocks, against plain f64.
namespace portolan::testing_support {
namespace {

constexpr EmulationOrder kEager{.late_copies = false, .last_warp_first = false};
constexpr EmulationOrder kLate{.late_copies = true, .last_warp_first = true};

/// What both passes are tested with: each feature and each odd length once.
std::vector<Case> cases() {
  constexpr auto kF16 = AttentionElement::f16;
  return {
      {.query_tokens = 130, .key_tokens = 130, .heads = 2, .key_heads = 2},
      {.query_tokens = 1, .key_tokens = 1},
      {.query_tokens = 5, .key_tokens = 5, .head_dim = 128, .causal = false},
      {.query_tokens = 64, .key_tokens = 257, .heads = 2, .causal = false, .element = kF16},
      {.query_tokens = 70, .key_tokens = 201, .head_dim = 128},
      {.query_tokens = 200, .key_tokens = 65},  // rows that see no key
      {.query_tokens = 40, .key_tokens = 0},
      {.query_tokens = 150, .key_tokens = 330, .heads = 2, .window = 37},
      {.batch = 2, .query_tokens = 129, .key_tokens = 129, .heads = 4, .key_heads = 2},
      {.query_tokens = 140,
       .key_tokens = 140,
       .head_dim = 128,
       .element = kF16,
       .output = AttentionOutput::f32},
      {.heads = 2, .query_lengths = {60, 0, 129, 1}, .key_lengths = {60, 20, 129, 21}},
      {.window = 20, .query_lengths = {30, 40}, .key_lengths = {50, 40}},
  };
}

TEST(CudaAttentionEmulated, ForwardIsThatOfPlainF64) {
  for (const Case& c : cases()) {
    SCOPED_TRACE(c.text());
    for (const EmulationOrder order : {kEager, kLate}) {
      Emulation emulation(c, order);
      emulation.run_forward();
      emulation.expect_forward();
    }
  }
}

TEST(CudaAttentionEmulated, ANaNReachesTheRowsThatSeeItAndTheirStatistics) {
  for (const int head_dim : {64, 128}) {
    Emulation forward({.query_tokens = 130, .key_tokens = 150, .head_dim = head_dim}, kLate);
    forward.spoil_key(90);
    forward.run_forward();
    forward.expect_spoiled(90);
    for (const int token : {3, 698}) {  // in the first and in the last split
      Emulation decoding({.query_tokens = 2, .key_tokens = 700, .head_dim = head_dim}, kLate);
      decoding.spoil_key(token);
      decoding.run_decode();
      EXPECT_GT(decoding.splits(), 1);
      decoding.expect_spoiled(token);
    }
  }
}

TEST(CudaAttentionEmulated, GradientsAreThoseOfPlainF64) {
  std::vector<Case> all = cases();
  all.push_back(
      {.query_tokens = 70, .key_tokens = 100, .heads = 2, .output = AttentionOutput::f32_sum});
  for (const Case& c : all) {
    SCOPED_TRACE(c.text());
    for (const EmulationOrder order : {kEager, kLate}) {
      Emulation emulation(c, order);
      emulation.run_backward();
      emulation.expect_backward();
    }
  }
}

TEST(CudaAttentionEmulated, DecodingIsThatOfPlainF64) {
  struct Decoded {
    Case problem;
    int splits;
  };
  const std::vector<Decoded> decoded{
      {{.query_tokens = 1, .key_tokens = 700, .heads = 4}, 3},
      {{.query_tokens = 1, .key_tokens = 1}, 1},
      {{.query_tokens = 1, .key_tokens = 0}, 1},
      {{.query_tokens = 2, .key_tokens = 300, .heads = 20, .key_heads = 2, .head_dim = 128}, 2},
      {{.batch = 2,
        .query_tokens = 16,
        .key_tokens = 270,
        .heads = 2,
        .element = AttentionElement::f16,
        .output = AttentionOutput::f32},
       2},
      {{.batch = 2, .query_tokens = 3, .key_tokens = 900, .window = 300}, 2},
      {{.query_tokens = 5, .key_tokens = 3}, 1},
      {{.query_tokens = 4, .key_tokens = 530, .causal = false}, 3},
  };
  for (const Decoded& c : decoded) {
    SCOPED_TRACE(c.problem.text());
    for (const EmulationOrder order : {kEager, kLate}) {
      Emulation emulation(c.problem, order);
      emulation.run_decode();
      EXPECT_EQ(emulation.splits(), c.splits);
      emulation.expect_forward();
    }
  }
}

/// Caches of which each entry fills as much as it says; all else in them, and the workspace, is
/// NaN.
TEST(CudaAttentionEmulated, DecodingOfCachedRowsIsThatOfPlainF64) {
  struct Decoded {
    Case problem;
    int splits;
  };
  const std::vector<Decoded> decoded{
      // From nothing to a full cache of three splits, with and without rows before.
      {{.batch = 6,
        .query_tokens = 1,
        .key_tokens = 700,
        .heads = 4,
        .cached_rows = {0, 700, 0, 1, 37, 37, 3, 200, 640, 700, 699, 700}},
       3},
      // Around the ends of splits: multiples of 64, and of 64 for each split.
      {{.batch = 9,
        .query_tokens = 1,
        .key_tokens = 700,
        .cached_rows = {0, 64, 1, 66, 0, 128, 5, 134, 0, 191, 10, 202, 7, 200, 0, 384, 2, 387}},
       3},
      {{.batch = 4,
        .query_tokens = 3,
        .key_tokens = 900,
        .window = 300,
        .cached_rows = {0, 900, 100, 420, 5, 8, 30, 850}},
       2},
      {{.batch = 3,
        .query_tokens = 16,
        .key_tokens = 530,
        .heads = 6,
        .key_heads = 2,
        .head_dim = 128,
        .element = AttentionElement::f16,
        .output = AttentionOutput::f32,
        .cached_rows = {-3, 2000, 20, 300, 8, 15}},  // rows beyond, fewer rows than queries
       3},
      {{.batch = 4,
        .query_tokens = 5,
        .key_tokens = 200,
        .heads = 2,
        .key_heads = 2,
        .cached_rows = {0, 200, 7, 7, 20, 10, 100, 140}},
       1},
      {{.batch = 2,
        .query_tokens = 4,
        .key_tokens = 530,
        .causal = false,
        .cached_rows = {9, 320, 0, 530}},
       3},
  };
  for (const Decoded& c : decoded) {
    SCOPED_TRACE(c.problem.text());
    for (const EmulationOrder order : {kEager, kLate}) {
      Emulation emulation(c.problem, order);
      emulation.run_decode();
      EXPECT_EQ(emulation.splits(), c.splits);
      emulation.expect_forward();
    }
  }
}

TEST(CudaAttentionEmulated, DecodingAgainSeesTheRowsOfThen) {
  Emulation emulation({.batch = 2,
                       .query_tokens = 2,
                       .key_tokens = 600,
                       .heads = 2,
                       .cached_rows = {0, 600, 2, 590}},
                      kLate);
  for (const std::vector<std::int32_t>& rows : {std::vector<std::int32_t>{0, 63, 2, 300},
                                                {0, 64, 2, 301},
                                                {0, 65, 50, 50},
                                                {0, 600, 400, 590}}) {
    emulation.set_cached_rows(rows);
    emulation.run_decode();
    EXPECT_EQ(emulation.splits(), 3);
    emulation.expect_forward();
  }
}

TEST(CudaAttentionEmulated, AFullCacheGivesTheBitsOfOneWithoutRows) {
  for (const std::int64_t key_tokens : {200, 700, 1400}) {
    Case c{.query_tokens = 3, .key_tokens = key_tokens, .heads = 2, .window = 650};
    Emulation plain(c, kEager);
    plain.run_decode();
    c.cached_rows = {0, static_cast<std::int32_t>(key_tokens)};
    Emulation cached(c, kEager);
    cached.run_decode();
    EXPECT_EQ(cached.out(), plain.out());
    EXPECT_EQ(cached.log_sum_exp(), plain.log_sum_exp());
  }
}

// The tests above are worth what the emulation notices.

TEST(EmulatedBlock, NoticesThreadsThatWaitForOthersThatEnded) {
  EXPECT_THROW(run_emulated_block(64, 16, kEager,
                                  [](const EmulatedLane& lane) {
                                    if (lane.thread() < 63) lane.block_barrier();
                                  }),
               Error);
}

TEST(EmulatedBlock, NoticesLanesAtDifferentInstructions) {
  EXPECT_THROW(run_emulated_block(32, 16, kEager,
                                  [](const EmulatedLane& lane) {
                                    if (lane.thread() == 3) {
                                      lane.warp_barrier();
                                    } else {
                                      static_cast<void>(lane.shuffle_xor(1.0F, 1));
                                    }
                                  }),
               Error);
}

TEST(EmulatedBlock, NoticesAccessesOutsideOfSharedMemory) {
  for (const std::uint32_t offset : {16U, 14U}) {
    EXPECT_THROW(
        run_emulated_block(32, 16, kEager,
                           [&](const EmulatedLane& lane) { lane.store(offset, std::uint32_t{1}); }),
        Error);
  }
}

TEST(EmulatedBlock, CopiesArriveLateOnlyWhenWaitedFor) {
  const std::uint32_t word = std::bit_cast<std::uint32_t>(2.0F);
  for (const bool late : {false, true}) {
    run_emulated_block(32, 16, {.late_copies = late, .last_warp_first = false},
                       [&](const EmulatedLane& lane) {
                         if (lane.thread() != 0) return;
                         lane.copy_word(4, &word, true);
                         lane.close_copies();
                         lane.close_copies();
                         lane.wait_copies<2>();
                         EXPECT_EQ(std::isnan(lane.load<float>(4)), late);
                         lane.wait_copies<1>();
                         EXPECT_EQ(lane.load<float>(4), 2.0F);
                       });
  }
}

}  // namespace
}  // namespace portolan::testing_support
