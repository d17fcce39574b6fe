// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "core/backend.hpp"
#include "core/dtype.hpp"
#include "core/error.hpp"
#include "parallel/host_operations.hpp"

namespace portolan {
namespace {

constexpr Device kWithoutBackend{DeviceKind::cuda, 7};

template <typename T>
constexpr DType dtype_of() {
  if constexpr (std::is_same_v<T, float>) return DType::f32;
  if constexpr (std::is_same_v<T, BFloat16>) return DType::bf16;
  return DType::f16;
}

template <typename T>
class Summation : public testing::Test {
 protected:
  /// `count` inputs of pseudo-random values whose sums round.
  static std::vector<std::vector<T>> inputs(int count, std::int64_t elements) {
    std::mt19937 random(5);
    std::uniform_real_distribution<float> values(-3.0F, 3.0F);
    std::vector<std::vector<T>> all(static_cast<std::size_t>(count));
    for (std::vector<T>& input : all) {
      for (std::int64_t i = 0; i < elements; ++i) input.push_back(from_float<T>(values(random)));
    }
    return all;
  }
  static void sum(const std::vector<std::vector<T>>& inputs, std::vector<std::byte*> outs,
                  std::int64_t elements, Device device) {
    std::vector<const std::byte*> addresses;
    for (const std::vector<T>& input : inputs) {
      addresses.push_back(reinterpret_cast<const std::byte*>(input.data()));
    }
    sum_in_order(addresses, outs, elements, dtype_of<T>(), device);
  }
};

using Types = testing::Types<float, BFloat16, Float16>;
TYPED_TEST_SUITE(Summation, Types);

TYPED_TEST(Summation, AddsInOrderInF32AndRoundsOnce) {
  using T = TypeParam;
  for (const std::int64_t elements : {1, 7, 1023, 1024, 1025, 50'000}) {
    const auto inputs = this->inputs(5, elements);
    std::vector<T> first(static_cast<std::size_t>(elements));
    std::vector<T> second(static_cast<std::size_t>(elements));
    this->sum(
        inputs,
        {reinterpret_cast<std::byte*>(first.data()), reinterpret_cast<std::byte*>(second.data())},
        elements, kWithoutBackend);
    for (std::size_t i = 0; i < first.size(); ++i) {
      float expected = to_float(inputs[0][i]);
      for (std::size_t input = 1; input < inputs.size(); ++input) {
        expected += to_float(inputs[input][i]);
      }
      ASSERT_EQ(to_float(first[i]), to_float(from_float<T>(expected))) << i;
      ASSERT_EQ(to_float(second[i]), to_float(first[i])) << i;
    }
  }
}

TYPED_TEST(Summation, MayWriteOverItsInputs) {
  using T = TypeParam;
  auto inputs = this->inputs(3, 5000);
  std::vector<T> expected(5000);
  this->sum(inputs, {reinterpret_cast<std::byte*>(expected.data())}, 5000, kWithoutBackend);
  std::vector<std::byte*> outs;
  for (std::vector<T>& input : inputs) outs.push_back(reinterpret_cast<std::byte*>(input.data()));
  this->sum(inputs, outs, 5000, kWithoutBackend);
  for (const std::vector<T>& input : inputs) {
    EXPECT_EQ(std::memcmp(input.data(), expected.data(), 5000 * sizeof(T)), 0);
  }
}

TYPED_TEST(Summation, IsTheSameWithAndWithoutABackend) {
  using T = TypeParam;
  constexpr std::int64_t kElements = 200'003;  // long enough for the backend
  const auto inputs = this->inputs(4, kElements);
  std::vector<T> expected(kElements);
  this->sum(inputs, {reinterpret_cast<std::byte*>(expected.data())}, kElements, kWithoutBackend);
  ASSERT_FALSE(registered_backends().empty());
  for (const auto& backend : registered_backends()) {
    if (!is_host(backend->device())) continue;  // memory of the host is summed
    std::vector<T> found(kElements);
    this->sum(inputs, {reinterpret_cast<std::byte*>(found.data())}, kElements, backend->device());
    EXPECT_EQ(std::memcmp(found.data(), expected.data(), kElements * sizeof(T)), 0)
        << backend->description();
  }
}

TEST(SummationOfSpecialValues, KeepsSignsInfinitiesAndNans) {
  const float infinity = std::numeric_limits<float>::infinity();
  const std::vector<float> a{-0.0F, infinity, infinity, std::nanf("")};
  const std::vector<float> b{-0.0F, 1.0F, -infinity, 1.0F};
  std::vector<float> sum(4);
  auto* out = reinterpret_cast<std::byte*>(sum.data());
  const std::vector<const std::byte*> inputs{reinterpret_cast<const std::byte*>(a.data()),
                                             reinterpret_cast<const std::byte*>(b.data())};
  sum_in_order(inputs, {&out, 1}, 4, DType::f32, kWithoutBackend);
  EXPECT_TRUE(std::signbit(sum[0]));
  EXPECT_EQ(sum[1], infinity);
  EXPECT_TRUE(std::isnan(sum[2]));
  EXPECT_TRUE(std::isnan(sum[3]));
}

TEST(SummationOfOtherDtypes, IsRefused) {
  std::vector<std::int32_t> values(4);
  auto* out = reinterpret_cast<std::byte*>(values.data());
  const std::byte* in = out;
  EXPECT_THROW(sum_in_order({&in, 1}, {&out, 1}, 4, DType::i32, kWithoutBackend), UsageError);
}

TEST(CopyDense, KeepsEveryBitWithAndWithoutABackend) {
  // Any bit pattern: signalling NaNs of every floating dtype are among them.
  std::vector<Device> devices{kWithoutBackend};
  for (const auto& backend : registered_backends()) {
    if (is_host(backend->device())) devices.push_back(backend->device());
  }
  std::mt19937 random(9);
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16, DType::i64, DType::u8}) {
    for (const std::int64_t bytes : {0, 8, 1000, 3'000'008}) {
      std::vector<std::byte> from(static_cast<std::size_t>(bytes));
      for (std::byte& byte : from) byte = static_cast<std::byte>(random());
      for (const Device device : devices) {
        std::vector<std::byte> to(from.size());
        copy_dense(to.data(), from.data(), bytes, dtype, device);
        EXPECT_TRUE(to == from) << name_of(dtype) << ", " << bytes << " bytes";
        copy_dense(to.data(), to.data(), bytes, dtype, device);
        EXPECT_TRUE(to == from);
      }
    }
  }
}

}  // namespace
}  // namespace portolan
