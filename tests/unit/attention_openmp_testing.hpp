// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <random>
#include <string>

#include "attention/attention.hpp"
#include "tests/reference/attention_gradient_reference.hpp"
#include "tests/unit/attention_testing.hpp"

/// Problems with every feature of the contract, forward and backward, for the kernels of device
/// `cpu`.
namespace portolan::testing_support {

struct GradientCase {
  AttentionCase base;  ///< out_dtype also of dq, dk and dv
  DType grad_out_dtype = DType::f32;
  AttentionDropout dropout = {};
  bool accumulate = false;

  [[nodiscard]] std::string to_string() const;
};

/// Tensors, and the same numbers in f64.
struct GradientSetup {
  AttentionSetup forward;
  AttentionGradients gradients;
  reference::DenseAttentionInput reference;
  reference::DenseAttentionResult expected;
};

/// log_sum_exp and delta of the gradients are the reference's.
[[nodiscard]] GradientSetup make_gradient_setup(const GradientCase& test_case);

/// 1 for each score that the mask leaves, [batch, heads, queries, keys], straight from the words of
/// the contract.
[[nodiscard]] std::vector<char> seen_scores(const AttentionProblem& problem);

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
