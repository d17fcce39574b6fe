// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "apps/benchmark_samples.hpp"
#include "apps/benchmark_work.hpp"
#include "apps/matmul_work.hpp"
#include "runtime/runtime.hpp"

/// Matrix products as linear layers make them, beside what the device's arithmetic and its memory
/// allow. Every rank multiplies operands of its own, all at once; rates are of all ranks together.
namespace portolan {

struct MatmulRow {
  MatmulCase setting;
  int ranks = 1;
  /// Empty if it was measured, else why not: "out of memory".
  std::string refusal = {};
  std::vector<double> samples_s = {};  ///< the slowest rank's
  std::int64_t weight_bytes = 0;       ///< of a rank, as they are held
  /// Most that a rank's allocator held at a time above the operands and results.
  std::int64_t peak_bytes = 0;
  double product_rate = 0.0;  ///< FLOP/s of a large product of the dtype between the samples
  double read_rate = 0.0;     ///< bytes/s of passes over memory between the samples
  double max_error = 0.0;     ///< of sampled outputs, against f64

  [[nodiscard]] double median_s() const { return summary_of(samples_s).median; }
  [[nodiscard]] double flop_rate() const { return ranks * setting.flops() / median_s(); }
  [[nodiscard]] double weight_rate() const {
    return ranks * static_cast<double>(weight_bytes) / median_s();
  }
  /// The longer one of the arithmetic at the large product's rate and of one pass over the weights.
  [[nodiscard]] double limit_s() const;
  /// "FLOP/s" or "read".
  [[nodiscard]] std::string_view limit() const;
  [[nodiscard]] double limit_share() const { return limit_s() / median_s(); }
};

/// Samples of the product and of its limits, in turns: weights come from memory, as between the
/// other layers of a model. Memory that any rank lacks is the row's result. Collective.
[[nodiscard]] MatmulRow measure_matmul(const MatmulCase& setting, const SampleLimits& limits,
                                       const MatrixProduct& product, const MemoryRead& memory,
                                       const Runtime& runtime);

}  // namespace portolan
