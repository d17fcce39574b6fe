// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <vector>

#include "tests/unit/attention_testing.hpp"

namespace portolan {
namespace {

using testing_support::AttentionCase;
using testing_support::AttentionLayout;
using testing_support::computed_dtypes;

class Random {
 public:
  explicit Random(std::uint64_t seed) : generator_(seed) {}
  std::int64_t between(std::int64_t first, std::int64_t last) {
    const auto count = static_cast<std::uint64_t>(last - first + 1);
    return first + static_cast<std::int64_t>(generator_() % count);
  }
  bool one_in(std::int64_t count) { return between(1, count) == 1; }

 private:
  std::mt19937_64 generator_;
};

/// Cuts `tokens` into runs. Sequences, if there is more than one, repeat in no order.
std::vector<TokenRun> random_runs(Random& random, std::int64_t tokens, std::int64_t sequences) {
  std::vector<TokenRun> runs;
  while (tokens > 0) {
    const std::int64_t length = random.between(0, std::min<std::int64_t>(tokens, 40));
    runs.push_back({random.between(0, 60), length, random.between(0, sequences - 1)});
    tokens -= length;
  }
  return runs;
}

std::shared_ptr<const BlockMap> random_blocks(Random& random, const AttentionCase& c) {
  const std::int64_t block_queries = random.between(1, 40);
  const std::int64_t block_keys = random.between(1, 40);
  const std::int64_t rows = (c.query_tokens + block_queries - 1) / block_queries;
  const std::int64_t columns = (c.key_tokens + block_keys - 1) / block_keys;
  std::vector<std::uint8_t> flags(static_cast<std::size_t>(c.heads * rows * columns));
  for (std::uint8_t& flag : flags) flag = random.one_in(2) ? 1 : 0;
  return std::make_shared<BlockMap>(
      block_map_from_flags(c.heads, rows, columns, block_queries, block_keys, flags.data()));
}

AttentionCase random_case(std::uint64_t seed) {
  Random random(seed);
  AttentionCase c{.batch = random.between(1, 3),
                  .query_tokens = random.between(1, 100),
                  .key_tokens = random.between(0, 140),
                  .heads = 1,
                  .key_heads = random.between(1, 2)};
  c.heads = c.key_heads * random.between(1, 3);
  c.head_dim = random.one_in(8) ? random.between(1, 256) : random.between(1, 48);
  c.dtype = computed_dtypes()[static_cast<std::size_t>(random.between(0, 2))];
  c.out_dtype = random.one_in(2) ? c.dtype : DType::f32;
  if (random.one_in(3)) c.layout = AttentionLayout::padded;
  if (random.one_in(6)) {
    c.layout = AttentionLayout::fused;
    c.key_tokens = c.query_tokens;
  }
  c.mask.causal = random.one_in(2);
  if (random.one_in(3)) c.mask.window = random.between(1, 60);
  if (random.one_in(2)) {
    const std::int64_t sequences = random.one_in(2) ? 1 : random.between(2, 4);
    c.mask.query_runs = random_runs(random, c.query_tokens, sequences);
    c.mask.key_runs = random_runs(random, c.key_tokens, sequences);
  }
  if (random.one_in(3)) {
    for (std::int64_t b = 0; b < c.batch; ++b) {
      const std::int64_t begin = random.between(0, c.key_tokens);
      c.mask.key_ranges.push_back({begin, random.between(begin, c.key_tokens)});
    }
  }
  if (random.one_in(3)) c.mask.blocks = random_blocks(random, c);
  if (random.one_in(3)) {
    c.dropout = {.probability = 0.1F * static_cast<float>(random.between(1, 8)),
                 .key = {seed * 0x9E3779B97F4A7C15U, seed},
                 .first_entry = random.between(0, 5),
                 .first_head = random.between(0, 50)};
  }
  c.seed = seed;
  return c;
}

/// Cases of twenty-five seeds each, so that a failure is found again quickly.
class AttentionFuzz : public ::testing::TestWithParam<int> {};

TEST_P(AttentionFuzz, EveryKernelAgreesWithTheReference) {
  for (int i = 0; i < 25 && !HasFailure(); ++i) {
    const auto seed = static_cast<std::uint64_t>(25 * GetParam() + i);
    SCOPED_TRACE(::testing::Message() << "seed " << seed);
    testing_support::check_on_all_kernels(random_case(seed));
  }
}

INSTANTIATE_TEST_SUITE_P(Seeds, AttentionFuzz, ::testing::Range(0, 8));

}  // namespace
}  // namespace portolan
