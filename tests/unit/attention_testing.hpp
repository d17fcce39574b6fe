// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "attention/attention.hpp"
#include "core/tensor.hpp"
#include "tests/reference/attention_reference.hpp"
#include "tests/unit/op_list.hpp"

/// What the attention tests share: random problems in the engine's and the reference's form.
namespace portolan::testing_support {

/// How q, k, v and out lie in memory.
enum class AttentionLayout { dense, fused, padded };

struct AttentionCase {
  std::int64_t batch = 1;
  std::int64_t query_tokens = 1;
  std::int64_t key_tokens = 1;
  std::int64_t heads = 1;
  std::int64_t key_heads = 1;
  std::int64_t head_dim = 16;
  AttentionMask mask = {};
  DType dtype = DType::f32;
  DType out_dtype = DType::f32;  ///< also of grad_out, dq, dk and dv
  AttentionLayout layout = AttentionLayout::dense;
  float scale = 0.0F;   ///< 0: 1 / sqrt(head_dim)
  float spread = 1.0F;  ///< inputs are uniform on [-spread, spread)
  std::uint64_t seed = 1;
  AttentionDropout dropout = {};
  /// One per batch entry, or empty: the problem has none. Other rows of k and v hold NaN.
  std::vector<KeyRange> cached_rows = {};

  [[nodiscard]] std::string to_string() const;
};

/// A case with tensors on a device, and the same numbers in f64.
struct AttentionSetup {
  AttentionProblem problem;
  Tensor out;
  Tensor log_sum_exp;
  AttentionGradients gradients;  ///< log_sum_exp and delta are for the test to fill
  reference::AttentionInput reference;
  std::vector<double> grad_out;  ///< the reference's
  double largest_value = 0.0;    ///< of |v|
};

[[nodiscard]] AttentionSetup make_setup(const AttentionCase& test_case, Device device);

/// Writes a problem's cached rows, and what the reference makes of them.
void set_cached_rows(AttentionSetup& setup, const std::vector<KeyRange>& rows);

/// Writes row-major values into a strided tensor, rounded to its dtype.
void set_values(const Tensor& tensor, const std::vector<double>& values);

/// Positions of the tokens of runs, one by one.
[[nodiscard]] std::vector<std::int64_t> positions_of(const std::vector<TokenRun>& runs);

/// Largest |difference| that rounding can explain: of the weights to the product's dtype (half a
/// unit in the last place of each, weights add up to 1), of the result to its dtype, and f32 noise.
[[nodiscard]] double out_tolerance(const AttentionCase& test_case, double largest_value,
                                   Device device);

/// Fails the running test unless out and log_sum_exp are those expected, within what rounding
/// explains.
void expect_matches(const AttentionCase& test_case, const AttentionSetup& setup,
                    const reference::AttentionOutput& expected);

/// The same for dq, dk and dv.
void expect_gradients(const AttentionCase& test_case, const AttentionSetup& setup,
                      const reference::AttentionGradient& expected);

/// Gives the backward pass the reference's log-sum-exp and delta.
void set_statistics(const AttentionSetup& setup, const reference::AttentionOutput& output,
                    const reference::AttentionGradient& gradient);

/// The same for every registered kernel that serves the case, forward and backward; and standard,
/// memory-efficient and flash must serve it, the latter unless it has a block map.
void check_on_all_kernels(const AttentionCase& test_case);

}  // namespace portolan::testing_support
