// SPDX-License-Identifier: Apache-2.0
#include "apps/reference_error.hpp"

#include <cmath>
#include <limits>

#include "core/ops.hpp"

namespace portolan {

std::vector<float> host_values(const Tensor& tensor) {
  const Tensor host = ops::to_host(ops::to_dtype(tensor, DType::f32));
  return {host.data<float>(), host.data<float>() + host.elements()};
}

double dot(const float* a, const float* b, std::int64_t count) {
  double sum = 0.0;
  for (std::int64_t i = 0; i < count; ++i) sum += static_cast<double>(a[i]) * b[i];
  return sum;
}

double largest_difference(const std::vector<double>& expected, const float* found) {
  double largest = 0.0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const double difference = std::abs(expected[i] - found[i]);
    if (!(difference <= largest)) {
      largest = std::isnan(difference) ? std::numeric_limits<double>::infinity() : difference;
    }
  }
  return largest;
}

}  // namespace portolan
