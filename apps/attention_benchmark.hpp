// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "apps/attention_pass.hpp"
#include "apps/benchmark_samples.hpp"
#include "apps/benchmark_work.hpp"
#include "attention/attention.hpp"

/// Measurement of one attention kernel at a time beside the device's matrix products.
namespace portolan {

struct AttentionBenchmarkRow {
  AttentionBenchmarkCase setting;
  /// Empty if it was measured, else why not: "out of memory", or the kernel's reason.
  std::string refusal = {};
  std::vector<double> samples_s = {};
  /// Most that the device's allocator held at a time above the operands and results.
  std::int64_t peak_bytes = 0;
  /// Of the scores that the mask leaves: 2 products forward, 5 backward.
  double flops = 0.0;
  /// FLOP/s of a large matrix product between the samples, median.
  double product_rate = 0.0;
  double max_error = 0.0;  ///< of sampled elements, against f64

  [[nodiscard]] double median_s() const;
  [[nodiscard]] double rate() const { return flops / median_s(); }
};

struct AttentionBenchmarkLimits {
  SampleLimits samples;
  std::int64_t memory_bytes = 0;  ///< scratch of a kernel beyond that is "out of memory"
};

/// Never throws because of memory or a kernel that refuses: that is the row's result.
[[nodiscard]] AttentionBenchmarkRow measure_attention(const AttentionBenchmarkCase& setting,
                                                      const AttentionBenchmarkLimits& limits,
                                                      const MatrixProduct& product, Device device);

}  // namespace portolan
