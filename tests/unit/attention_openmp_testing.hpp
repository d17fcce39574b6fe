// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <random>
#include <string>

#include "attention/attention.hpp"
#include "tests/reference/attention_reference.hpp"
#include "tests/unit/attention_testing.hpp"

/// Problems with every feature of the contract, large enough for several tiles of the kernels of
/// device `cpu`.
namespace portolan::testing_support {

struct GradientCase {
  AttentionCase base;
  DType grad_out_dtype = DType::f32;
  bool accumulate = false;

  [[nodiscard]] std::string to_string() const;
};

struct GradientSetup {
  AttentionSetup tensors;  ///< log_sum_exp and delta of the gradients are the reference's
  reference::AttentionOutput output;
  reference::AttentionGradient gradient;
};

[[nodiscard]] GradientSetup make_gradient_setup(const GradientCase& test_case);

/// Fails the running test unless results are the reference's within what rounding explains.
void expect_forward(const GradientCase& test_case, const GradientSetup& setup);
void expect_gradients(const GradientCase& test_case, const GradientSetup& setup);

/// The number of OpenMP threads, for a scope.
class OpenmpThreads {
 public:
  explicit OpenmpThreads(int threads);
  ~OpenmpThreads();
  OpenmpThreads(const OpenmpThreads&) = delete;
  OpenmpThreads& operator=(const OpenmpThreads&) = delete;

 private:
  int before_;
};

/// Any mask with any of the features.
[[nodiscard]] GradientCase random_case(std::mt19937_64& generator, std::int64_t largest_length);

}  // namespace portolan::testing_support
