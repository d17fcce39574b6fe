// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "core/ops.hpp"
#include "tests/unit/ops_golden.hpp"

namespace portolan::testing_support {
namespace {

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

    const Tensor grad_weight = zeros_like(weight).view({weight.elements()});
    ops::rms_norm_backward(x, weight.view({weight.elements()}), epsilon, matrix(file, name + ".dy"),
                           out, grad_weight);
    expect_near(out, matrix(file, name + ".dx"), kTolerance);
    expect_near(grad_weight, matrix(file, name + ".dw"), kTolerance);
  }
}

TEST_P(OpsGolden, Swiglu) {
  const SafetensorsFile file = open("swiglu");
  for (const std::string name : {"normal", "wide", "vector_tail"}) {
    SCOPED_TRACE(name);
    const Tensor gate = matrix(file, name + ".gate");
    const Tensor out = Tensor::empty(gate.shape(), DType::f32, device());
    const Tensor up = matrix(file, name + ".up");
    ops::swiglu(gate, up, out);
    expect_near(out, matrix(file, name + ".y"), kTolerance);
    ops::swiglu_backward(gate, up, matrix(file, name + ".dy"), gate, up);
    expect_near(gate, matrix(file, name + ".dgate"), kTolerance);
    expect_near(up, matrix(file, name + ".dup"), kTolerance);
  }
}

TEST_P(OpsGolden, Embedding) {
  const SafetensorsFile file = open("embedding");
  const std::vector<std::int32_t> ids = indices(file, "repeats.ids");
  const Tensor expected = matrix(file, "repeats.y");
  const Tensor out = Tensor::empty(expected.shape(), DType::f32, device());
  ops::embedding(index_tensor(ids, device()), matrix(file, "repeats.table"), 0, out);
  expect_near(out, expected, 0.0);

  const Tensor grad_table = zeros_like(matrix(file, "repeats.table"));
  ops::embedding_backward(index_tensor(ids, device()), matrix(file, "repeats.dy"), 0, grad_table);
  expect_near(grad_table, matrix(file, "repeats.dtable"), kTolerance);
}

TEST_P(OpsGolden, RotaryEmbedding) {
  const SafetensorsFile file = open("rope");
  for (const std::string name : {"d16", "d32_theta5e5", "d64_offset", "linear", "llama3",
                                 "llama31_real", "long_positions"}) {
    SCOPED_TRACE(name);
    const std::string prefix = name + ".half_split.";
    const std::vector<std::int64_t>& shape = file.at(prefix + "x").shape;  // [B, H, S, D]
    const Tensor positions = host_matrix(file, prefix + "positions", DType::i64);
    const Tensor frequencies = host_matrix(file, name + ".inv_freq");
    const std::int64_t half = frequencies.elements();

    // One table row per token, in the order of the tokens.
    const std::int64_t tokens = positions.elements();
    const Tensor host_cosines = Tensor::empty({tokens, half}, DType::f32, kHost);
    const Tensor host_sines = Tensor::empty({tokens, half}, DType::f32, kHost);
    std::vector<std::int32_t> rows;
    for (std::int64_t token = 0; token < tokens; ++token) {
      rows.push_back(static_cast<std::int32_t>(token));
      for (std::int64_t i = 0; i < half; ++i) {
        const float angle = static_cast<float>(positions.data<std::int64_t>()[token]) *
                            frequencies.data<float>()[i];
        host_cosines.data<float>()[token * half + i] = std::cos(angle);
        host_sines.data<float>()[token * half + i] = std::sin(angle);
      }
    }

    const Tensor cosines = ops::to_device(host_cosines, device());
    const Tensor sines = ops::to_device(host_sines, device());

    // The file has heads before tokens, the engine after.
    const Tensor in_order = Tensor::empty({tokens, shape[1], shape[3]}, DType::f32, kHost);
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
    const auto rotate = [&](const std::string& tensor, bool inverse) {
      const Tensor x = host_matrix(file, prefix + tensor);
      per_token(x, in_order, true);
      const Tensor turned = ops::to_device(in_order, device());
      ops::rotary_embedding(turned, index_tensor(rows, device()), cosines, sines, inverse);
      per_token(ops::to_host(turned), x, false);
      return x;
    };
    expect_near(rotate("x", false), matrix(file, prefix + "y_transformers_f32"), kTolerance);
    // The gradient has exact angles: its noise is that of f32 angles.
    const bool long_angles = name == "long_positions";
    expect_near(rotate("dy", true), matrix(file, prefix + "dx"), long_angles ? 5e-3 : 1.5e-4);
  }
}

INSTANTIATE_TEST_SUITE_P(Devices, OpsGolden, ::testing::ValuesIn(kDevices), name_of_device);

}  // namespace
}  // namespace portolan::testing_support
