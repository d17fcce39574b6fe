// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "core/tensor.hpp"

/// What measurements of errors against f64 share.
namespace portolan {

/// The elements as f32, which holds each value of the dtypes that the engine computes in.
[[nodiscard]] std::vector<float> host_values(const Tensor& tensor);

/// Sum of a[i] * b[i].
[[nodiscard]] double dot(const float* a, const float* b, std::int64_t count);

/// Largest |expected[i] - found[i]|. A NaN counts as infinitely wrong.
[[nodiscard]] double largest_difference(const std::vector<double>& expected, const float* found);

}  // namespace portolan
