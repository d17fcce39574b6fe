// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <string>
#include <vector>

#include "core/backend.hpp"
#include "core/ops.hpp"
#include "core/safetensors.hpp"
#include "tests/unit/devices.hpp"
#include "tests/unit/file_testing.hpp"
#include "tests/unit/op_list.hpp"

namespace portolan::testing_support {

/// Golden values are of another framework: they catch a misread formula, which a reference written
/// by the same hand repeats.
class OpsGolden : public ::testing::TestWithParam<DeviceKind> {
 protected:
  static constexpr Device kHost{DeviceKind::serial, 0};

  [[nodiscard]] static Device device() { return {GetParam(), 0}; }

  [[nodiscard]] static SafetensorsFile open(const std::string& name) {
    return SafetensorsFile(portolan::testing::data_path("numerics/" + name + ".safetensors"));
  }

  /// As a matrix: the last dimension by all others. In host memory, for tests that look into it.
  [[nodiscard]] static Tensor host_matrix(const SafetensorsFile& file, const std::string& name,
                                          DType dtype = DType::f32) {
    const SafetensorsEntry& entry = file.at(name);
    const std::int64_t columns = entry.shape.empty() ? 1 : entry.shape.back();
    const Tensor result = Tensor::empty({entry.elements() / columns, columns}, dtype, kHost);
    file.read(entry, result.raw(), dtype);
    return result;
  }

  /// The same on the device.
  [[nodiscard]] static Tensor matrix(const SafetensorsFile& file, const std::string& name) {
    return ops::to_device(host_matrix(file, name), device());
  }

  /// The elements as a vector.
  [[nodiscard]] static Tensor vector(const SafetensorsFile& file, const std::string& name) {
    const Tensor elements = matrix(file, name);
    return elements.view({elements.elements()});
  }

  [[nodiscard]] static Tensor empty_like(const Tensor& tensor) {
    return Tensor::empty(tensor.shape(), DType::f32, device());
  }

  [[nodiscard]] static Tensor zeros_like(const Tensor& tensor) {
    Tensor result = empty_like(tensor);
    ops::fill(result, 0.0F);
    return result;
  }

  /// Indices are of 64 bits in the files.
  [[nodiscard]] static std::vector<std::int32_t> indices(const SafetensorsFile& file,
                                                         const std::string& name) {
    const Tensor wide = host_matrix(file, name, DType::i64);
    const auto* const begin = wide.data<std::int64_t>();
    std::vector<std::int32_t> result;
    std::transform(begin, begin + wide.elements(), std::back_inserter(result),
                   [](std::int64_t value) { return static_cast<std::int32_t>(value); });
    return result;
  }

  /// Differences relative to the largest value, as float32 noise is given for these files.
  static void expect_near(const Tensor& found, const Tensor& expected, double tolerance) {
    const Values values = values_of(found);
    const Values wanted = values_of(expected);
    ASSERT_EQ(values.size(), wanted.size());
    double largest = 0.0;
    for (const double value : wanted) {
      if (std::isfinite(value)) largest = std::max(largest, std::abs(value));
    }
    for (std::size_t i = 0; i < values.size(); ++i) {
      if (std::isinf(wanted[i])) {
        ASSERT_EQ(values[i], wanted[i]) << "element " << i;
        continue;
      }
      ASSERT_TRUE(std::abs(values[i] - wanted[i]) <= tolerance * largest)
          << "element " << i << " is " << values[i] << " instead of " << wanted[i];
    }
  }
};

/// Ten times plain float32's own noise; a wrong epsilon or a missed factor is far outside.
inline constexpr double kTolerance = 1e-6;

}  // namespace portolan::testing_support
