// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cstdint>
#include <vector>

#include "core/error.hpp"
#include "core/ops.hpp"
#include "tests/unit/devices.hpp"
#include "tests/unit/op_list.hpp"

namespace portolan {
namespace {

using namespace testing_support;

constexpr std::int64_t kEntries = 3;
constexpr std::int64_t kCapacity = 9;
constexpr std::int64_t kKeyHeads = 2;
constexpr std::int64_t kHeadDim = 6;
constexpr std::int64_t kHeads = 4;
constexpr double kUntouched = 7.0;

class CacheRowsOn : public ::testing::TestWithParam<DeviceKind> {
 protected:
  [[nodiscard]] Device device() const { return {GetParam(), 0}; }

  /// [batch, capacity, heads, head_dim] with gaps between entries.
  [[nodiscard]] Tensor padded_cache(DType dtype) const {
    Tensor whole = Tensor::empty({kEntries, kCapacity + 2, kKeyHeads, kHeadDim}, dtype, device());
    ops::fill(whole, static_cast<float>(kUntouched));
    return whole.slice(1, 1, kCapacity + 1);
  }
  [[nodiscard]] CacheRows cache(DType dtype, const std::vector<std::int32_t>& rows) const {
    return {padded_cache(dtype), padded_cache(dtype),
            index_tensor(rows, device()).view({kEntries, 2})};
  }
  /// Tokens side by side with others, [tokens, heads, kHeadDim].
  [[nodiscard]] Tensor tokens(std::uint64_t seed, std::int64_t count, std::int64_t heads,
                              DType dtype) const {
    Generator generator(seed);
    return random_matrix(generator, count, heads * kHeadDim, dtype, device(), true)
        .view.split_last(heads);
  }
};

/// What a cache of kUntouched holds when `source` [tokens, kKeyHeads, kHeadDim] has been stored.
Values stored(const Values& source, const std::vector<std::int32_t>& rows,
              std::int64_t entry_tokens) {
  constexpr std::int64_t kRow = kKeyHeads * kHeadDim;
  Values expected(static_cast<std::size_t>(kEntries * kCapacity * kRow), kUntouched);
  for (std::int64_t token = 0; token < kEntries * entry_tokens; ++token) {
    const std::int64_t entry = token / entry_tokens;
    const std::int64_t end = rows[static_cast<std::size_t>(2 * entry + 1)];
    const std::int64_t row = end - entry_tokens + token % entry_tokens;
    if (row < 0 || row >= kCapacity) continue;
    for (std::int64_t i = 0; i < kRow; ++i) {
      expected[static_cast<std::size_t>((entry * kCapacity + row) * kRow + i)] =
          source[static_cast<std::size_t>(token * kRow + i)];
    }
  }
  return expected;
}

const std::vector<std::vector<std::int32_t>>& row_cases() {
  static const std::vector<std::vector<std::int32_t>> cases = {
      {0, 3, 0, 3, 0, 3},
      {0, 9, 2, 5, 4, 6},
      {0, 1, 0, 10, 0, 0},  // the first token of an entry, or the last, or all have no row
  };
  return cases;
}

TEST_P(CacheRowsOn, TokensGoToTheLastRowsThatHoldTokensAndNowhereElse) {
  for (const DType dtype : computed_dtypes()) {
    for (const std::int64_t entry_tokens : {1, 2}) {
      const Tensor k = tokens(1, kEntries * entry_tokens, kKeyHeads, dtype);
      const Tensor v = tokens(2, kEntries * entry_tokens, kKeyHeads, dtype);
      for (const std::vector<std::int32_t>& rows : row_cases()) {
        const CacheRows target = cache(dtype, rows);
        ops::store_cache_rows(k, v, target);
        EXPECT_EQ(values_of(target.keys), stored(values_of(k), rows, entry_tokens));
        EXPECT_EQ(values_of(target.values), stored(values_of(v), rows, entry_tokens));
      }
    }
  }
}

TEST_P(CacheRowsOn, KeysAreStoredAsTheRotationAloneLeavesThem) {
  constexpr std::int64_t kLength = 16;
  Generator generator(3);
  const Tensor cosines =
      random_matrix(generator, kLength, kHeadDim / 2, DType::f32, device(), false).view;
  const Tensor sines =
      random_matrix(generator, kLength, kHeadDim / 2, DType::f32, device(), false).view;
  for (const DType dtype : computed_dtypes()) {
    for (const std::int64_t entry_tokens : {1, 2}) {
      std::vector<std::int32_t> places;
      for (std::int64_t t = 0; t < kEntries * entry_tokens; ++t) {
        places.push_back(static_cast<std::int32_t>(t * 5 % kLength));
      }
      const Tensor positions = index_tensor(places, device());
      for (const std::vector<std::int32_t>& rows : row_cases()) {
        const Tensor x = tokens(4, kEntries * entry_tokens, kHeads + 2 * kKeyHeads, dtype);
        const Tensor rotated = tokens(4, kEntries * entry_tokens, kHeads + 2 * kKeyHeads, dtype);
        ops::rotary_embedding(rotated.slice(1, 0, kHeads + kKeyHeads), positions, cosines, sines);
        const auto heads = [&](std::int64_t begin, std::int64_t count) {
          return values_of(rotated.slice(1, begin, begin + count));
        };
        const CacheRows target = cache(dtype, rows);
        ops::rotary_store_cache_rows(x, positions, cosines, sines, target);
        EXPECT_EQ(values_of(x.slice(1, 0, kHeads)), heads(0, kHeads));
        EXPECT_EQ(values_of(target.keys), stored(heads(kHeads, kKeyHeads), rows, entry_tokens));
        EXPECT_EQ(values_of(target.values),
                  stored(heads(kHeads + kKeyHeads, kKeyHeads), rows, entry_tokens));
      }
    }
  }
}

TEST_P(CacheRowsOn, TokensThatDoNotFitTheCacheAreRefused) {
  const CacheRows target = cache(DType::f32, row_cases().front());
  const auto refuses = [&](std::int64_t count, std::int64_t heads, DType dtype,
                           const CacheRows& rows) {
    const Tensor k = tokens(5, count, heads, dtype);
    EXPECT_THROW(ops::store_cache_rows(k, k, rows), UsageError);
  };
  refuses(kEntries + 1, kKeyHeads, DType::f32, target);
  refuses(kEntries, kKeyHeads + 1, DType::f32, target);
  refuses(kEntries, kKeyHeads, DType::bf16, target);
  CacheRows other = target;
  other.rows = index_tensor({0, 1, 0, 1}, device()).view({2, 2});
  refuses(kEntries, kKeyHeads, DType::f32, other);
}

/// What is recorded reads its inputs when it is started.
TEST_P(CacheRowsOn, RecordedWorkStoresWhereTheRowsSayWhenItIsStarted) {
  const Tensor k = tokens(6, kEntries, kKeyHeads, DType::f32);
  const CacheRows target = cache(DType::f32, {0, 1, 0, 1, 0, 1});
  Backend& backend = backend_of(device());
  const auto work = backend.run_and_record([&] { ops::store_cache_rows(k, k, target); });
  EXPECT_EQ(values_of(target.keys), stored(values_of(k), {0, 1, 0, 1, 0, 1}, 1));
  ops::fill(target.keys, static_cast<float>(kUntouched));
  const std::vector<std::int32_t> rows{0, 4, 2, 9, 0, 2};
  ops::copy(index_tensor(rows, device()).view({kEntries, 2}), target.rows);
  work->start();
  EXPECT_EQ(values_of(target.keys), stored(values_of(k), rows, 1));
}

INSTANTIATE_TEST_SUITE_P(Devices, CacheRowsOn, ::testing::ValuesIn(kDevices), name_of_device);

}  // namespace
}  // namespace portolan
