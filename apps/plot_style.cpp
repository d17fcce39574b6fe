// SPDX-License-Identifier: Apache-2.0
#include "apps/plot_style.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace portolan {
namespace {

constexpr int kWidth = 500;
constexpr int kHeight = 330;

/// By mode_place; the last is for names that are none of them.
constexpr std::array<ModeStyle, 5> kModeStyles{
    {{"#52606d", 7}, {"#0072b2", 5}, {"#d55e00", 9}, {"#009e73", 13}, {"#000000", 1}}};

}  // namespace

const ModeStyle& style_of_mode(const std::string& mode) {
  return kModeStyles[std::min<std::size_t>(static_cast<std::size_t>(mode_place(mode)), 4)];
}

std::string place_caption(const std::vector<Comparison>& comparisons, std::size_t index,
                          const std::string& dtype) {
  if (comparisons.size() == 1) return dtype;
  return fmt::format("machine {}, {}", index + 1, dtype);
}

PlotPoint time_point(std::int64_t x, const TimeSamples& times) {
  return {static_cast<double>(x), times.median, times.minimum, times.maximum};
}

PlotPoint plain_point(std::int64_t x, double y) { return {static_cast<double>(x), y, y, y}; }

Figure draw(const Gnuplot& gnuplot, const std::string& script, const std::string& id,
            const std::string& caption) {
  return {caption, gnuplot.svg(script, id, caption, kWidth, kHeight)};
}

}  // namespace portolan
