// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <tuple>
#include <vector>

#include "core/backend.hpp"
#include "core/error.hpp"
#include "core/ops.hpp"
#include "tests/reference/quantization_reference.hpp"
#include "tests/unit/devices.hpp"
#include "tests/unit/op_list.hpp"

namespace portolan::testing_support {
namespace {

constexpr std::int64_t kOut = 130;
constexpr std::int64_t kIn = 1130;  // a last group of 10, and a second chunk of inputs

int bits_of(Quantization quantization) { return quantization == Quantization::int4 ? 4 : 8; }

std::vector<std::uint8_t> bytes_of_panels(const Weight& weight) {
  const Tensor host = ops::to_host(weight.storage());
  return {host.data<std::uint8_t>(), host.data<std::uint8_t>() + host.elements()};
}

Weight quantize(const Tensor& rows, Quantization quantization) {
  const Weight weight = Weight::quantized(rows.dim(0), rows.dim(1), quantization, rows.device());
  // What is there before must not show.
  const std::vector<std::uint8_t> before(weight.bytes(), 0xAA);
  backend_of(rows.device())
      .copy_bytes(weight.storage().raw(), before.data(), before.size(), Queue::compute);
  backend_of(rows.device()).synchronize();
  ops::pack_rows(rows, 0, weight);
  return weight;
}

class Quantized : public testing::TestWithParam<std::tuple<DeviceKind, Quantization>> {
 protected:
  [[nodiscard]] static Device device() { return {std::get<0>(GetParam()), 0}; }
  [[nodiscard]] static Quantization quantization() { return std::get<1>(GetParam()); }
};

TEST_P(Quantized, PanelsAreTheReferencesToTheByte) {
  for (const DType dtype : computed_dtypes()) {
    SCOPED_TRACE(name_of(dtype));
    Generator generator(5);
    const TestMatrix rows = random_matrix(generator, kOut, kIn, dtype, device(), true);
    const reference::QuantizedMatrix expected =
        reference::quantize(rows.values(), kOut, kIn, bits_of(quantization()));
    EXPECT_EQ(bytes_of_panels(quantize(rows.view, quantization())), expected.panels);
  }
}

TEST_P(Quantized, IntegersAreWithinHalfAStepOfTheWeight) {
  Generator generator(6);
  const TestMatrix rows = random_matrix(generator, kOut, kIn, DType::f32, device(), false);
  const Values weight = rows.values();
  const reference::QuantizedMatrix matrix =
      reference::quantize(weight, kOut, kIn, bits_of(quantization()));
  double largest_step = 0.0;
  for (std::size_t i = 0; i < weight.size(); ++i) {
    // Up to 127 steps are divided in f32.
    ASSERT_LE(std::abs(weight[i] - matrix.values[i]), (0.5 + 127.0 * 0x1p-24) * matrix.steps[i]);
    largest_step = std::max(largest_step, matrix.steps[i]);
  }
  // Weights are in [-1, 1).
  EXPECT_LE(largest_step, quantization() == Quantization::int4 ? 1.0 / 7.0 : 1.0 / 127.0);
}

/// Groups that differ by 2^-24 and more in size, a row of zeros, and numbers without a normal
/// scale.
TEST_P(Quantized, AnyMagnitudesAreQuantized) {
  Values values(66 * 100, 0.0);
  Generator generator(7);
  for (int row = 1; row < 66; ++row) {
    for (int i = 0; i < 100; ++i) {
      values[static_cast<std::size_t>(row * 100 + i)] =
          std::ldexp(generator.symmetric(), row % 5 * 20 - 60 - i / 32 * (row % 7) * 3);
    }
  }
  values[6500] = std::numeric_limits<float>::denorm_min();
  const TestMatrix rows = matrix_of(values, 66, 100, DType::f32, device());
  const reference::QuantizedMatrix expected =
      reference::quantize(rows.values(), 66, 100, bits_of(quantization()));
  EXPECT_EQ(bytes_of_panels(quantize(rows.view, quantization())), expected.panels);
}

TEST_P(Quantized, WhatIsNotFiniteShowsInItsOutputAlone) {
  for (const float bad :
       {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    Values values(70 * 40, 0.5);
    values[3 * 40 + 39] = bad;
    const TestMatrix rows = matrix_of(values, 70, 40, DType::f32, device());
    const Weight weight = quantize(rows.view, quantization());
    for (const std::int64_t count : {1, 40}) {
      const TestMatrix x = constant_matrix(1.0, count, 40, DType::f32, device(), false);
      const TestMatrix out = constant_matrix(0.0, count, 70, DType::f32, device(), false);
      ops::matmul(x.view, weight, out.view);
      const Values found = out.values();
      for (std::size_t i = 0; i < found.size(); ++i) {
        if (i % 70 == 3) {
          EXPECT_TRUE(std::isnan(found[i]));
        } else {
          EXPECT_NEAR(found[i], 20.0, 1e-4);
        }
      }
    }
  }
}

/// x is bf16, whose magnitudes differ by 2^60 from group to group and by up to 2^`spread` within
/// one. Kernels may round inputs to multiples of 2^-15 of the largest of their group.
void expect_products_of_any_magnitude(const Weight& weight, const Values& weight_values,
                                      std::int64_t count, int spread) {
  Generator generator(9);
  Values inputs(static_cast<std::size_t>(count * kIn));
  for (std::int64_t i = 0; i < count * kIn; ++i) {
    const std::int64_t group = i % kIn / kQuantizedGroup;
    const int of_group = static_cast<int>(group % 7) * 10 - 30;
    const int within = spread == 0 ? 0 : static_cast<int>(i * 5 % spread);
    const double magnitude = 0.5 + 0.49 * std::abs(generator.symmetric());
    const double sign = generator.symmetric() < 0.0 ? -1.0 : 1.0;
    inputs[static_cast<std::size_t>(i)] = std::ldexp(sign * magnitude, of_group - within);
  }
  const TestMatrix x = matrix_of(inputs, count, kIn, DType::bf16, weight.device());
  const TestMatrix out = constant_matrix(0.0, count, kOut, DType::f32, weight.device(), false);
  ops::matmul(x.view, weight, out.view);
  const Values found = out.values();
  const reference::Sums expected =
      reference::matmul(x.values(), weight_values, count, kIn, kOut, {});
  const reference::Sums allowed = reference::matmul(reference::integer_rounding(x.values(), kIn),
                                                    weight_values, count, kIn, kOut, {});
  for (std::size_t i = 0; i < found.size(); ++i) {
    ASSERT_NEAR(found[i], expected.values[i], allowed.magnitudes[i] + 4e-7 * expected.magnitudes[i])
        << "output " << i << " of " << count << " rows, spread " << spread;
  }
}

TEST_P(Quantized, InputsOfAnyMagnitudeAreMultiplied) {
  Generator generator(10);
  const TestMatrix rows = random_matrix(generator, kOut, kIn, DType::f32, device(), false);
  const Weight weight = quantize(rows.view, quantization());
  const Values values =
      reference::quantize(rows.values(), kOut, kIn, bits_of(quantization())).values;
  for (const std::int64_t count : {1, 3, 6, 64}) {
    expect_products_of_any_magnitude(weight, values, count, 0);
    expect_products_of_any_magnitude(weight, values, count, 40);
  }
}

TEST_P(Quantized, InputsThatAreNotFiniteShowInTheirRow) {
  Generator generator(11);
  const TestMatrix rows = random_matrix(generator, 70, 100, DType::f32, device(), false);
  const Weight weight = quantize(rows.view, quantization());
  for (const float bad :
       {-std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    Values inputs(3 * 100, 1.0);
    inputs[100 + 99] = bad;
    const TestMatrix x = matrix_of(inputs, 3, 100, DType::bf16, device());
    const TestMatrix out = constant_matrix(0.0, 3, 70, DType::bf16, device(), false);
    ops::matmul(x.view, weight, out.view);
    const Values found = out.values();
    for (std::size_t i = 0; i < found.size(); ++i) {
      EXPECT_EQ(std::isfinite(found[i]), i / 70 != 1) << i;
    }
  }
}

TEST_P(Quantized, TakesTheBytesThatTheHeaderSays) {
  const Weight weight = Weight::quantized(4096, 4096, quantization(), device());
  const double bits = 8.0 * static_cast<double>(weight.bytes()) / (4096.0 * 4096.0);
  EXPECT_DOUBLE_EQ(bits, (quantization() == Quantization::int4 ? 4.25 : 8.0) + 32.0 / 4096.0);
}

INSTANTIATE_TEST_SUITE_P(Devices, Quantized,
                         testing::Combine(testing::ValuesIn(kDevices),
                                          testing::Values(Quantization::int8, Quantization::int4)),
                         [](const auto& info) {
                           return std::string(name_of(std::get<0>(info.param))) + "_" +
                                  std::string(name_of(std::get<1>(info.param)));
                         });

/// A GPU widens more at a time.
TEST(QuantizedOnHosts, ManyRowsTakeScratchOfAFewPanels) {
  for (const DeviceKind kind : kDevices) {
    const Device device{kind, 0};
    if (!is_host(device)) continue;
    for (const Quantization quantization : {Quantization::int8, Quantization::int4}) {
      Generator generator(8);
      const TestMatrix rows = random_matrix(generator, 4096, 512, DType::bf16, device, false);
      const Weight weight = quantize(rows.view, quantization);
      const TestMatrix x = random_matrix(generator, 40, 512, DType::bf16, device, false);
      const TestMatrix out = constant_matrix(0.0, 40, 4096, DType::bf16, device, false);
      CachingAllocator& allocator = backend_of(device).allocator();
      allocator.reset_peaks();
      const std::int64_t before = allocator.counters().allocated;
      ops::matmul(x.view, weight, out.view);
      // The whole weight as f32 would be 8 MB, as bf16 4 MB.
      EXPECT_LT(allocator.counters().allocated_peak - before, std::int64_t{3} << 20)
          << name_of(kind) << ", " << name_of(quantization);
    }
  }
}

TEST(QuantizationNames, RoundTripAndRefuse) {
  for (const Quantization quantization :
       {Quantization::none, Quantization::int8, Quantization::int4}) {
    EXPECT_EQ(quantization_from_name(name_of(quantization)), quantization);
  }
  EXPECT_THROW(static_cast<void>(quantization_from_name("int2")), UsageError);
}

TEST(QuantizationFactors, AreTheSmallestThatAreNotBelow) {
  for (int i = 0; i <= 100000; ++i) {
    const float ratio = static_cast<float>(i) / 100000.0F;
    const std::uint8_t code = int4_factor_code(ratio);
    ASSERT_GE(int4_factor(code), ratio);
    if (code > 0) {
      ASSERT_LT(int4_factor(static_cast<std::uint8_t>(code - 1)), ratio);
    }
  }
  EXPECT_EQ(int4_factor(int4_factor_code(1.0F)), 1.0F);
}

}  // namespace
}  // namespace portolan::testing_support
