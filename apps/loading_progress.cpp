// SPDX-License-Identifier: Apache-2.0
#include "apps/loading_progress.hpp"

#include <fmt/format.h>

namespace portolan {

void LoadingProgress::read(const PlannedParameter& parameter, std::int64_t row_begin,
                           std::int64_t column_begin, const Tensor& out) {
  source_.read(parameter, row_begin, column_begin, out);
  done_ += out.elements();
  if (done_ >= elements_) {
    progress_.clear();
    return;
  }
  constexpr double kInterval = 0.1;
  const double now = stopwatch_.seconds();
  if (!progress_.on_terminal() || now < shown_ + kInterval) return;
  shown_ = now;
  const double share = static_cast<double>(done_) / static_cast<double>(elements_);
  progress_.activity(fmt::format("loading: {:.0f} % of {:.2f} G parameters, about {} left",
                                 100.0 * share, static_cast<double>(elements_) * 1e-9,
                                 clock_text(now / share - now)));
}

}  // namespace portolan
