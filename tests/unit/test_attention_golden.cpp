// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "attention/attention.hpp"
#include "core/json_file.hpp"
#include "core/safetensors.hpp"
#include "tests/unit/attention_testing.hpp"
#include "tests/unit/file_testing.hpp"

namespace portolan {
namespace {

/// A tensor stored as [batch, heads, tokens, head_dim], in the engine's [batch, tokens, heads,
/// ...].
struct Stored {
  Shape shape;
  std::vector<double> values;
};

Stored read_heads_first(const SafetensorsFile& file, const std::string& name) {
  const SafetensorsEntry& entry = file.at(name);
  const std::vector<std::int64_t>& s = entry.shape;
  std::vector<float> stored(static_cast<std::size_t>(entry.elements()));
  file.read(entry, stored.data(), DType::f32);
  Stored result{{s[0], s[2], s[1], s[3]}, {}};
  for (std::int64_t b = 0; b < s[0]; ++b) {
    for (std::int64_t t = 0; t < s[2]; ++t) {
      for (std::int64_t h = 0; h < s[1]; ++h) {
        const float* row = &stored[static_cast<std::size_t>(((b * s[1] + h) * s[2] + t) * s[3])];
        result.values.insert(result.values.end(), row, row + s[3]);
      }
    }
  }
  return result;
}

Tensor upload(const Stored& stored, Device device) {
  const Tensor tensor = Tensor::empty(stored.shape, DType::f32, device);
  testing_support::set_values(tensor, stored.values);
  return tensor;
}

void expect_near(const std::vector<double>& found, const std::vector<double>& expected,
                 double tolerance, const std::string& what) {
  ASSERT_EQ(found.size(), expected.size());
  for (std::size_t i = 0; i < found.size(); ++i) {
    if (found[i] == expected[i]) continue;  // infinities
    ASSERT_LE(std::abs(found[i] - expected[i]), tolerance)
        << what << " element " << i << ": " << found[i] << " should be " << expected[i];
  }
}

TEST(AttentionGolden, EveryKernelReproducesAnotherFramework) {
  const nlohmann::json index = read_json_file(portolan::testing::data_path("attention/cases.json"));
  int checked = 0;
  for (const nlohmann::json& entry : index.at("cases")) {
    const auto name = entry.at("name").get<std::string>();
    SCOPED_TRACE(name);
    const SafetensorsFile file(
        portolan::testing::data_path("attention/" + entry.at("file").get<std::string>()));
    const Stored expected = read_heads_first(file, "o");
    std::vector<float> log_sum_exp(static_cast<std::size_t>(file.at("lse").elements()));
    file.read(file.at("lse"), log_sum_exp.data(), DType::f32);
    const double tolerance = name == "causal_large_scores" ? 2e-3 : 1e-5;
    for (const auto& kernel : attention_forward_kernels()) {
      if (kernel->device() == DeviceKind::cuda) continue;
      SCOPED_TRACE(std::string(name_of(kernel->device())) + " " +
                   std::string(name_of(kernel->method())));
      const Device device{kernel->device(), 0};
      AttentionProblem problem{.q = upload(read_heads_first(file, "q"), device),
                               .k = upload(read_heads_first(file, "k"), device),
                               .v = upload(read_heads_first(file, "v"), device),
                               .mask = {},
                               .scale = entry.at("scale").get<float>()};
      problem.mask.causal = entry.at("causal").get<bool>();
      problem.mask.window = entry.at("window").get<std::int64_t>();
      const bool special = kernel->method() == AttentionMethod::window ||
                           kernel->method() == AttentionMethod::block_sparse;
      const std::string reason = kernel->unsupported_reason(problem);
      if (special && !reason.empty()) continue;
      ASSERT_EQ(reason, "");
      const Tensor out = Tensor::empty(expected.shape, DType::f32, device);
      const Tensor lse = Tensor::empty({expected.shape[0], expected.shape[2], expected.shape[1]},
                                       DType::f32, device);
      kernel->forward(problem, out, lse);
      expect_near(testing_support::values_of(out), expected.values, tolerance, "o");
      expect_near(testing_support::values_of(lse),
                  std::vector<double>(log_sum_exp.begin(), log_sum_exp.end()), tolerance, "lse");
      ++checked;
    }
  }
  EXPECT_GE(checked, 20);
}

}  // namespace
}  // namespace portolan
