// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "core/backend.hpp"
#include "core/ops.hpp"
#include "core/random.hpp"
#include "tests/reference/ops_reference.hpp"

namespace portolan {
namespace {

using Words = std::array<std::uint32_t, 4>;

/// Known answers that the algorithm's authors publish with Random123 (kat_vectors, philox4x32 10).
TEST(Random, PhiloxKnownAnswers) {
  EXPECT_EQ(philox4x32({0, 0, 0, 0}, 0, 0),
            (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox4x32({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, 0xffffffff, 0xffffffff),
            (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, 0xa4093822, 0x299f31d0),
            (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
  EXPECT_EQ(
      reference::philox({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
      (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Random, UniformIsOnTheHalfOpenInterval) {
  EXPECT_EQ(symmetric_uniform(0u), -1.0F);
  EXPECT_EQ(symmetric_uniform(0xFFFFFFFFu), 1.0F - 0x1p-23F);
  EXPECT_EQ(symmetric_uniform(0x80000000u), 0.0F);
}

TEST(Random, StreamsOfDifferentNamesDiffer) {
  const RandomKey first = random_key(1, "layers.0.weight");
  const RandomKey second = random_key(1, "layers.1.weight");
  EXPECT_EQ(first.seed, second.seed);
  EXPECT_NE(first.stream, second.stream);
  EXPECT_EQ(random_key(1, "layers.0.weight").stream, first.stream);
  EXPECT_NE(random_words(first, 0), random_words(second, 0));
  EXPECT_NE(random_words(first, 0), random_words(random_key(2, "layers.0.weight"), 0));
}

class RandomUniform : public testing::TestWithParam<DType> {
 protected:
  static constexpr RandomKey kKey{42, 0x1234567890ABCDEFULL};

  [[nodiscard]] static Tensor draw(Device device, std::int64_t rows, std::int64_t columns,
                                   const MatrixBlock& block) {
    const Tensor out = Tensor::empty({rows, columns}, GetParam(), device);
    ops::random_uniform(out, kKey, block, 0.5F, 0.02F);
    return ops::to_host(out);
  }

  static void expect_same_bits(const Tensor& found, const Tensor& expected) {
    ASSERT_EQ(found.bytes(), expected.bytes());
    EXPECT_EQ(std::memcmp(found.raw(), expected.raw(), found.bytes()), 0);
  }
};

TEST_P(RandomUniform, EveryDeviceDrawsTheSameBits) {
  ASSERT_FALSE(registered_backends().empty());
  // Large enough for several blocks of work, odd enough to start and end anywhere.
  for (const auto& [rows, columns] : {std::pair<std::int64_t, std::int64_t>(1, 5), {777, 401}}) {
    const MatrixBlock block{.row_begin = 3, .column_begin = 2, .columns = 410};
    const Tensor expected = draw(registered_backends()[0]->device(), rows, columns, block);
    for (const auto& backend : registered_backends()) {
      SCOPED_TRACE(name_of(backend->device().kind));
      expect_same_bits(draw(backend->device(), rows, columns, block), expected);
    }
  }
}

/// A rank draws its rows or columns of a matrix without drawing the others.
TEST_P(RandomUniform, ShardsAreBlocksOfTheWhole) {
  constexpr std::int64_t kRows = 13;
  constexpr std::int64_t kColumns = 107;
  for (const auto& backend : registered_backends()) {
    const Device device = backend->device();
    SCOPED_TRACE(name_of(device.kind));
    const Tensor whole = draw(device, kRows, kColumns, {.columns = kColumns});
    for (std::int64_t first_row : {0, 5}) {
      for (std::int64_t first_column : {0, 1, 2, 3, 50}) {
        const std::int64_t rows = kRows - first_row - 1;
        const std::int64_t columns = kColumns - first_column - 2;
        const Tensor shard =
            draw(device, rows, columns,
                 {.row_begin = first_row, .column_begin = first_column, .columns = kColumns});
        const Tensor part = ops::to_dtype(whole.slice(0, first_row, first_row + rows)
                                              .slice(1, first_column, first_column + columns),
                                          GetParam());
        expect_same_bits(shard, part);
      }
    }
  }
}

/// Mean and variance of a million numbers: within five standard deviations of the estimators.
TEST_P(RandomUniform, HasTheMomentsOfAUniformDistribution) {
  constexpr std::int64_t kCount = 1 << 20;
  for (const auto& backend : registered_backends()) {
    SCOPED_TRACE(name_of(backend->device().kind));
    const Tensor out = Tensor::empty({1, kCount}, GetParam(), backend->device());
    ops::random_uniform(out, kKey, {.columns = kCount}, 0.0F, 1.0F);
    const Tensor values = ops::to_host(ops::to_dtype(out, DType::f32));
    double sum = 0.0;
    double squares = 0.0;
    double neighbours = 0.0;
    for (std::int64_t i = 0; i < kCount; ++i) {
      const double value = values.data<float>()[i];
      EXPECT_TRUE(value >= -1.0 && value <= 1.0);
      sum += value;
      squares += value * value;
      if (i > 0) neighbours += value * static_cast<double>(values.data<float>()[i - 1]);
    }
    const double n = kCount;
    // Var(u) = 1/3, Var(u^2) = 4/45, Var(u v) = 1/9. 16-bit roundings shift the variance by less
    // than their own square.
    EXPECT_NEAR(sum / n, 0.0, 5.0 * std::sqrt(1.0 / 3.0 / n));
    EXPECT_NEAR(squares / n, 1.0 / 3.0, 5.0 * std::sqrt(4.0 / 45.0 / n));
    EXPECT_NEAR(neighbours / n, 0.0, 5.0 * std::sqrt(1.0 / 9.0 / n));
  }
}

INSTANTIATE_TEST_SUITE_P(DTypes, RandomUniform,
                         testing::Values(DType::f32, DType::bf16, DType::f16),
                         [](const testing::TestParamInfo<DType>& info) {
                           return std::string(name_of(info.param));
                         });

}  // namespace
}  // namespace portolan
