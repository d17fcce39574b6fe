// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "attention/cuda/attention_arguments.hpp"
#include "tests/cuda/device_array.cuh"

/// Attention and its gradient in f64, score by score, by simple kernels that share no code with
/// those under test. All matrices of scores are held, so lengths must be small.
namespace portolan::cuda_testing {

/// Dense results, rows in the order of the operands: [rows, heads, head_dim], with rows counted
/// through the batch; log_sum_exp and delta [batch, heads, query_tokens], or [heads, rows] if
/// packed.
struct ReferenceResults {
  std::vector<double> out;
  std::vector<double> log_sum_exp;
  std::vector<double> delta;
  std::vector<double> dq;
  std::vector<double> dk;
  std::vector<double> dv;
};

/// Keys outside of cached rows get no gradients. `rows` and `key_rows` are those of all entries.
/// Gradients only if `arguments.grad_out` is given; of the arguments only the operands are looked
/// at.
[[nodiscard]] ReferenceResults reference_attention(
    const cuda::AttentionBackwardArguments& arguments, std::int64_t rows, std::int64_t key_rows);

/// Fills with 16-bit values drawn uniformly from [-amplitude, amplitude).
void fill_random(std::uint16_t* values, std::size_t size, cuda::AttentionElement element,
                 float amplitude, std::uint64_t seed);

}  // namespace portolan::cuda_testing
