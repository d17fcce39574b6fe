// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "core/convert.hpp"
#include "core/dtype.hpp"
#include "core/error.hpp"

namespace portolan {
namespace {

/// A 16-bit binary floating-point format, described by the widths of its fields alone.
struct Format {
  int exponent_bits;
  int mantissa_bits;
};
constexpr Format kBFloat16{8, 7};
constexpr Format kFloat16{5, 10};

/// The value by the definition of IEEE 754 formats, in f64.
double value_of(Format format, std::uint16_t bits) {
  const int bias = (1 << (format.exponent_bits - 1)) - 1;
  const int exponent = (bits >> format.mantissa_bits) & ((1 << format.exponent_bits) - 1);
  const int mantissa = bits & ((1 << format.mantissa_bits) - 1);
  const double sign = (bits & 0x8000) != 0 ? -1.0 : 1.0;
  if (exponent == (1 << format.exponent_bits) - 1) {
    return mantissa == 0 ? sign * std::numeric_limits<double>::infinity()
                         : std::numeric_limits<double>::quiet_NaN();
  }
  if (exponent == 0) return sign * std::ldexp(mantissa, 1 - bias - format.mantissa_bits);
  return sign *
         std::ldexp((1 << format.mantissa_bits) + mantissa, exponent - bias - format.mantissa_bits);
}

/// Rounding by search among all non-negative values: to nearest, ties to the even one.
class NearestBySearch {
 public:
  explicit NearestBySearch(Format format) : format_(format) {
    infinity_ =
        static_cast<std::uint16_t>(((1 << format.exponent_bits) - 1) << format.mantissa_bits);
    for (int bits = 0; bits < infinity_; ++bits) {
      values_.push_back(value_of(format, static_cast<std::uint16_t>(bits)));
    }
    // What would follow the largest finite value; rounding there gives infinity.
    values_.push_back(2.0 * value_of(format, static_cast<std::uint16_t>(
                                                 infinity_ - (1 << format.mantissa_bits))));
  }

  std::uint16_t operator()(double value) const {
    const auto sign = static_cast<std::uint16_t>(std::signbit(value) ? 0x8000 : 0);
    const double magnitude = std::fabs(value);
    if (magnitude >= values_.back()) return static_cast<std::uint16_t>(sign | infinity_);
    const auto above = std::upper_bound(values_.begin(), values_.end(), magnitude);
    const auto low = static_cast<std::uint16_t>(above - values_.begin() - 1);
    const double below_by = magnitude - values_[low];
    const double above_by = *above - magnitude;
    const bool up = below_by > above_by || (below_by == above_by && low % 2 == 1);
    return static_cast<std::uint16_t>(sign | (up ? low + 1 : low));
  }

 private:
  Format format_;
  std::uint16_t infinity_ = 0;
  std::vector<double> values_;
};

template <typename T>
void expect_exact_widening(Format format) {
  for (int i = 0; i <= 0xFFFF; ++i) {
    const auto bits = static_cast<std::uint16_t>(i);
    const double expected = value_of(format, bits);
    const float found = to_float(T{bits});
    if (std::isnan(expected)) {
      ASSERT_TRUE(std::isnan(found)) << std::hex << i;
    } else {
      ASSERT_EQ(static_cast<double>(found), expected) << std::hex << i;
      ASSERT_EQ(std::signbit(found), std::signbit(expected)) << std::hex << i;
    }
  }
}

template <typename T>
void expect_identity_through_f32() {
  for (int i = 0; i <= 0xFFFF; ++i) {
    const T value{static_cast<std::uint16_t>(i)};
    const float wide = to_float(value);
    const T back = from_float<T>(wide);
    if (std::isnan(wide)) {
      ASSERT_TRUE(std::isnan(to_float(back))) << std::hex << i;
    } else {
      ASSERT_EQ(back.bits, value.bits) << std::hex << i;
    }
  }
}

/// All places where rounding decides: each value, the middle between neighbours, and the f32 values
/// next to those; then arbitrary bit patterns.
std::vector<float> rounding_probes(Format format) {
  std::vector<float> probes;
  const float infinity = std::numeric_limits<float>::infinity();
  const int end = ((1 << format.exponent_bits) - 1) << format.mantissa_bits;
  for (int i = 0; i + 1 < end; ++i) {
    const double low = value_of(format, static_cast<std::uint16_t>(i));
    const double high = value_of(format, static_cast<std::uint16_t>(i + 1));
    for (const double value : {low, (low + high) / 2}) {
      const auto probe = static_cast<float>(value);
      for (const float each :
           {probe, std::nextafter(probe, -infinity), std::nextafter(probe, infinity)}) {
        probes.push_back(each);
        probes.push_back(-each);
      }
    }
  }
  std::mt19937 random(20240229);
  while (probes.size() < 1'500'000) {
    const auto value = std::bit_cast<float>(static_cast<std::uint32_t>(random()));
    if (!std::isnan(value)) probes.push_back(value);
  }
  for (const float value : {65504.0F, 65519.996F, 65520.0F, 65536.0F, infinity, 3.3895e38F,
                            std::numeric_limits<float>::max()}) {
    probes.push_back(value);
    probes.push_back(-value);
  }
  return probes;
}

template <typename T>
void expect_narrowing_to_nearest_even(Format format) {
  const NearestBySearch nearest(format);
  for (const float value : rounding_probes(format)) {
    ASSERT_EQ(from_float<T>(value).bits, nearest(static_cast<double>(value)))
        << std::hexfloat << value;
  }
}

TEST(DTypes, EveryBFloat16WidensToItsExactValue) { expect_exact_widening<BFloat16>(kBFloat16); }
TEST(DTypes, EveryFloat16WidensToItsExactValue) { expect_exact_widening<Float16>(kFloat16); }
TEST(DTypes, EveryBFloat16SurvivesThroughF32) { expect_identity_through_f32<BFloat16>(); }
TEST(DTypes, EveryFloat16SurvivesThroughF32) { expect_identity_through_f32<Float16>(); }
TEST(DTypes, F32NarrowsToTheNearestBFloat16TiesToEven) {
  expect_narrowing_to_nearest_even<BFloat16>(kBFloat16);
}
TEST(DTypes, F32NarrowsToTheNearestFloat16TiesToEven) {
  expect_narrowing_to_nearest_even<Float16>(kFloat16);
}

TEST(DTypes, NotANumberStaysSoWhenNarrowed) {
  for (const std::uint32_t bits : {0x7F800001u, 0x7FC00000u, 0x7FFFFFFFu, 0xFF800001u}) {
    const auto value = std::bit_cast<float>(bits);
    EXPECT_TRUE(std::isnan(to_float(from_float<BFloat16>(value)))) << std::hex << bits;
    EXPECT_TRUE(std::isnan(to_float(from_float<Float16>(value)))) << std::hex << bits;
  }
}

TEST(DTypes, NamesAndSizesRoundTrip) {
  for (const DType dtype :
       {DType::f32, DType::bf16, DType::f16, DType::f64, DType::i32, DType::i64, DType::u8}) {
    EXPECT_EQ(dtype_from_name(name_of(dtype)), dtype);
  }
  EXPECT_EQ(size_of(DType::f64), 8u);
  EXPECT_EQ(size_of(DType::bf16), 2u);
  EXPECT_EQ(size_of(DType::u8), 1u);
  EXPECT_THROW(static_cast<void>(dtype_from_name("float32")), UsageError);
}

template <typename T>
std::uint16_t narrow(double value, DType dtype) {
  T result{};
  convert_elements(&value, DType::f64, &result, dtype, 1);
  return result.bits;
}

template <typename T>
void expect_single_rounding_from_f64(Format format, DType dtype) {
  const NearestBySearch nearest(format);
  const double infinity = std::numeric_limits<double>::infinity();
  const int end = ((1 << format.exponent_bits) - 1) << format.mantissa_bits;
  for (int i = 0; i + 1 < end; ++i) {
    const double middle = (value_of(format, static_cast<std::uint16_t>(i)) +
                           value_of(format, static_cast<std::uint16_t>(i + 1))) /
                          2;
    // Just beside the middle: rounding to f32 first would land on it and then tie the wrong way.
    for (const double value :
         {middle, std::nextafter(middle, -infinity), std::nextafter(middle, infinity)}) {
      ASSERT_EQ(narrow<T>(value, dtype), nearest(value)) << std::hexfloat << value;
      ASSERT_EQ(narrow<T>(-value, dtype), nearest(-value)) << std::hexfloat << -value;
    }
  }
  for (const double value : {0.0, -0.0, 1e-300, -1e-300, 1e300, -1e300, infinity, -infinity}) {
    EXPECT_EQ(narrow<T>(value, dtype), nearest(value)) << value;
  }
  EXPECT_TRUE(std::isnan(to_float(T{narrow<T>(std::nan(""), dtype)})));
}

TEST(Conversion, F64ToBFloat16RoundsOnce) {
  expect_single_rounding_from_f64<BFloat16>(kBFloat16, DType::bf16);
}
TEST(Conversion, F64ToFloat16RoundsOnce) {
  expect_single_rounding_from_f64<Float16>(kFloat16, DType::f16);
}

TEST(Conversion, WorksOnUnalignedMemory) {
  std::vector<std::byte> source(1 + 3 * sizeof(float));
  const float values[3] = {1.5F, -2.0F, 0.25F};
  std::memcpy(source.data() + 1, values, sizeof(values));
  std::vector<std::byte> destination(1 + 3 * sizeof(double));
  convert_elements(source.data() + 1, DType::f32, destination.data() + 1, DType::f64, 3);
  double found[3];
  std::memcpy(found, destination.data() + 1, sizeof(found));
  EXPECT_EQ(found[0], 1.5);
  EXPECT_EQ(found[1], -2.0);
  EXPECT_EQ(found[2], 0.25);
}

TEST(Conversion, OffersFloatingPairsCopiesAndI32ToI64Only) {
  EXPECT_TRUE(is_convertible(DType::bf16, DType::f16));
  EXPECT_TRUE(is_convertible(DType::u8, DType::u8));
  EXPECT_TRUE(is_convertible(DType::i32, DType::i64));
  EXPECT_FALSE(is_convertible(DType::i64, DType::i32));
  EXPECT_FALSE(is_convertible(DType::i64, DType::f32));
  EXPECT_FALSE(is_convertible(DType::f32, DType::u8));
  const std::int32_t from = -7;
  std::int64_t to = 0;
  convert_elements(&from, DType::i32, &to, DType::i64, 1);
  EXPECT_EQ(to, -7);
  EXPECT_THROW(convert_elements(&to, DType::i64, &to, DType::f32, 1), UnsupportedError);
}

}  // namespace
}  // namespace portolan
