// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <string>
#include <vector>

#include "apps/report_plots.hpp"

/// What the files that make the report's figures share.
namespace portolan {

struct ModeStyle {
  const char* color;
  int marker;
};
/// The same mode looks the same in all figures.
[[nodiscard]] const ModeStyle& style_of_mode(const std::string& mode);

/// For series that are not modes. Okabe and Ito's colours, as for the modes, stay apart for
/// colour-blind readers.
inline constexpr std::array<const char*, 8> kSeriesColors{
    "#0072b2", "#d55e00", "#009e73", "#8c4f9f", "#56b4e9", "#c48a00", "#52606d", "#b0306a"};

/// The dtype, and the machine where there are several.
[[nodiscard]] std::string place_caption(const std::vector<Comparison>& comparisons,
                                        std::size_t index, const std::string& dtype);

[[nodiscard]] PlotPoint time_point(std::int64_t x, const TimeSamples& times);
[[nodiscard]] PlotPoint plain_point(std::int64_t x, double y);

/// The figure, in the size that all have; the caption is also its label.
[[nodiscard]] Figure draw(const Gnuplot& gnuplot, const std::string& script, const std::string& id,
                          const std::string& caption);

}  // namespace portolan
