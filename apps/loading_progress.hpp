// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "apps/progress.hpp"
#include "core/timer.hpp"
#include "models/weight_source.hpp"

namespace portolan {

/// Hands on another source and says on a terminal how far the loading is.
class LoadingProgress final : public WeightSource {
 public:
  /// `elements` is what this rank loads. `source` must outlive this object. Silent when `quiet`.
  LoadingProgress(WeightSource& source, std::int64_t elements, bool quiet)
      : source_(source), elements_(elements), progress_(quiet) {}

  void read(const PlannedParameter& parameter, std::int64_t row_begin, std::int64_t column_begin,
            const Tensor& out) override;

 private:
  WeightSource& source_;
  std::int64_t elements_;
  std::int64_t done_ = 0;
  Progress progress_;
  Stopwatch stopwatch_;
  double shown_ = 0.0;
};

}  // namespace portolan
