// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "core/backend.hpp"
#include "core/ops.hpp"
#include "core/safetensors.hpp"
#include "tests/unit/file_testing.hpp"
#include "tests/unit/op_list.hpp"

namespace portolan::testing_support {
namespace {

/// Golden values are of another framework: they catch a misread formula, which a reference written
/// by the same hand repeats.
class OpsGolden : public ::testing::TestWithParam<DeviceKind> {
 protected:
  [[nodiscard]] static Device device() { return {GetParam(), 0}; }

  [[nodiscard]] static SafetensorsFile open(const std::string& name) {
    return SafetensorsFile(portolan::testing::data_path("numerics/" + name + ".safetensors"));
  }

  /// As a matrix: the last dimension by all others.
  [[nodiscard]] static Tensor matrix(const SafetensorsFile& file, const std::string& name,
                                     DType dtype = DType::f32) {
    const SafetensorsEntry& entry = file.at(name);
    const std::int64_t columns = entry.shape.empty() ? 1 : entry.shape.back();
    const Tensor result = Tensor::empty({entry.elements() / columns, columns}, dtype, device());
    file.read(entry, result.raw(), dtype);
    return result;
  }

  /// Differences relative to the largest value, as float32 noise is given for these files.
  static void expect_near(const Tensor& found, const Tensor& expected, double tolerance) {
    const Values values = values_of(found);
    const Values wanted = values_of(expected);
    ASSERT_EQ(values.size(), wanted.size());
    double largest = 0.0;
    for (const double value : wanted) largest = std::max(largest, std::abs(value));
    for (std::size_t i = 0; i < values.size(); ++i) {
      ASSERT_TRUE(std::abs(values[i] - wanted[i]) <= tolerance * largest)
          << "element " << i << " is " << values[i] << " instead of " << wanted[i];
    }
  }
};

/// Ten times plain float32's own noise; a wrong epsilon or a missed factor is far outside.
constexpr double kTolerance = 1e-6;

TEST_P(OpsGolden, RmsNorm) {
  const SafetensorsFile file = open("rmsnorm");
  for (const auto& [name, epsilon] : {std::pair<std::string, float>("d64", 1e-5F),
                                      {"d77", 1e-6F},
                                      {"tiny_values", 1e-5F},
                                      {"large_values", 1e-5F},
                                      {"offset", 1e-5F},
                                      {"one_row_d4096", 1e-5F}}) {
    SCOPED_TRACE(name);
    const Tensor x = matrix(file, name + ".x");
    const Tensor weight = matrix(file, name + ".w");
    const Tensor out = Tensor::empty(x.shape(), DType::f32, device());
    ops::rms_norm(x, weight.view({weight.elements()}), epsilon, out);
    expect_near(out, matrix(file, name + ".y"), kTolerance);
  }
}

TEST_P(OpsGolden, Swiglu) {
  const SafetensorsFile file = open("swiglu");
  for (const std::string name : {"normal", "wide", "vector_tail"}) {
    SCOPED_TRACE(name);
    const Tensor gate = matrix(file, name + ".gate");
    const Tensor out = Tensor::empty(gate.shape(), DType::f32, device());
    ops::swiglu(gate, matrix(file, name + ".up"), out);
    expect_near(out, matrix(file, name + ".y"), kTolerance);
  }
}

TEST_P(OpsGolden, Embedding) {
  const SafetensorsFile file = open("embedding");
  const Tensor wide_ids = matrix(file, "repeats.ids", DType::i64);
  std::vector<std::int32_t> ids;
  for (std::int64_t i = 0; i < wide_ids.elements(); ++i) {
    ids.push_back(static_cast<std::int32_t>(wide_ids.data<std::int64_t>()[i]));
  }
  const Tensor expected = matrix(file, "repeats.y");
  const Tensor out = Tensor::empty(expected.shape(), DType::f32, device());
  ops::embedding(index_tensor(ids, device()), matrix(file, "repeats.table"), 0, out);
  expect_near(out, expected, 0.0);
}

TEST_P(OpsGolden, RotaryEmbedding) {
  const SafetensorsFile file = open("rope");
  for (const std::string name : {"d16", "d32_theta5e5", "d64_offset", "linear", "llama3",
                                 "llama31_real", "long_positions"}) {
    SCOPED_TRACE(name);
    const std::string prefix = name + ".half_split.";
    const std::vector<std::int64_t>& shape = file.at(prefix + "x").shape;  // [B, H, S, D]
    const Tensor positions = matrix(file, prefix + "positions", DType::i64);
    const Tensor frequencies = matrix(file, name + ".inv_freq");
    const std::int64_t half = frequencies.elements();

    // One table row per token, in the order of the tokens.
    const std::int64_t tokens = positions.elements();
    const Tensor cosines = Tensor::empty({tokens, half}, DType::f32, device());
    const Tensor sines = Tensor::empty({tokens, half}, DType::f32, device());
    std::vector<std::int32_t> rows;
    for (std::int64_t token = 0; token < tokens; ++token) {
      rows.push_back(static_cast<std::int32_t>(token));
      for (std::int64_t i = 0; i < half; ++i) {
        const float angle = static_cast<float>(positions.data<std::int64_t>()[token]) *
                            frequencies.data<float>()[i];
        cosines.data<float>()[token * half + i] = std::cos(angle);
        sines.data<float>()[token * half + i] = std::sin(angle);
      }
    }

    // The file has heads before tokens, the engine after.
    const Tensor x = matrix(file, prefix + "x");
    const Tensor turned = Tensor::empty({tokens, shape[1], shape[3]}, DType::f32, device());
    const auto per_token = [&](const Tensor& source, const Tensor& target, bool to_engine) {
      for (std::int64_t b = 0; b < shape[0]; ++b) {
        for (std::int64_t h = 0; h < shape[1]; ++h) {
          for (std::int64_t s = 0; s < shape[2]; ++s) {
            const std::int64_t in_file = ((b * shape[1] + h) * shape[2] + s) * shape[3];
            const std::int64_t in_engine = ((b * shape[2] + s) * shape[1] + h) * shape[3];
            std::copy_n(source.data<float>() + (to_engine ? in_file : in_engine), shape[3],
                        target.data<float>() + (to_engine ? in_engine : in_file));
          }
        }
      }
    };
    per_token(x, turned, true);
    ops::rotary_embedding(turned, index_tensor(rows, device()), cosines, sines);
    per_token(turned, x, false);
    expect_near(x, matrix(file, prefix + "y_transformers_f32"), kTolerance);
  }
}

constexpr DeviceKind kHostDevices[] = {
    DeviceKind::serial,
#if defined(PORTOLAN_HAS_OPENMP)
    DeviceKind::cpu,
#endif
};

INSTANTIATE_TEST_SUITE_P(Host, OpsGolden, ::testing::ValuesIn(kHostDevices),
                         [](const ::testing::TestParamInfo<DeviceKind>& info) {
                           return std::string(name_of(info.param));
                         });

}  // namespace
}  // namespace portolan::testing_support
