// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "apps/comparison.hpp"
#include "apps/gnuplot.hpp"

/// The report's figures. Refused rows are not drawn.
namespace portolan {

struct PlotPoint {
  double x = 0.0;
  double y = 0.0;
  double low = 0.0;
  double high = 0.0;
};

struct PlotSeries {
  std::string label;
  std::string color;  ///< "#rrggbb"
  int marker = 7;     ///< gnuplot's point type
  int dash = 1;       ///< gnuplot's dash type
  std::vector<PlotPoint> points;
};

/// Values over a number with a few ticks, such as sequence lengths or ranks.
struct LinePlot {
  std::string x_label;
  std::string y_label;
  std::vector<PlotSeries> series;
  bool error_bars = false;
  std::optional<double> reference;  ///< a horizontal line, e.g. at a ratio of 1
  bool from_zero = true;            ///< else the axis holds just the values and the reference
};

/// Groups of bars: `values[series][group]`, absent ones left out.
struct BarPlot {
  std::string y_label;
  std::vector<std::string> groups;
  struct Series {
    std::string label;
    std::string color;
    std::vector<std::optional<double>> values;
  };
  std::vector<Series> series;
};

/// gnuplot scripts without a terminal.
[[nodiscard]] std::string plot_script(const LinePlot& plot);
[[nodiscard]] std::string plot_script(const BarPlot& plot);

struct Figure {
  std::string caption;
  std::string svg;
};

/// Each function gives one figure for each comparison, dtype and number of ranks, or none where
/// there are no rows.
[[nodiscard]] std::vector<Figure> latency_figures(const std::vector<Comparison>& comparisons,
                                                  const Gnuplot& gnuplot);
/// The same over the median of `none`: differences that the scale of seconds hides.
[[nodiscard]] std::vector<Figure> relative_figures(const std::vector<Comparison>& comparisons,
                                                   const Gnuplot& gnuplot);
/// Allocated, then resident memory of the rank with the most.
[[nodiscard]] std::vector<Figure> memory_figures(const std::vector<Comparison>& comparisons,
                                                 const Gnuplot& gnuplot);
[[nodiscard]] std::vector<Figure> communication_figures(const std::vector<Comparison>& comparisons,
                                                        const Gnuplot& gnuplot);
/// Time and memory over ranks at the longest length; only where a mode was run with several numbers
/// of ranks.
[[nodiscard]] std::vector<Figure> scaling_figures(const std::vector<Comparison>& comparisons,
                                                  const Gnuplot& gnuplot);
/// SP over TP, of times and of memory: all comparisons and the published tables in one figure each.
[[nodiscard]] std::vector<Figure> ratio_figures(const std::vector<Comparison>& comparisons,
                                                const Gnuplot& gnuplot);
/// The published order of events beside the fair one: times and allocated memory.
[[nodiscard]] std::vector<Figure> protocol_figures(const std::vector<Comparison>& comparisons,
                                                   const Gnuplot& gnuplot);

/// The dtypes that occur, in the order of the rows.
[[nodiscard]] std::vector<std::string> dtypes_of(const Comparison& comparison);
/// Proven rows of tp and sp with the same dtype, length and fewest ranks, by length: what SP
/// changes.
[[nodiscard]] std::vector<std::pair<const CompareRow*, const CompareRow*>> tp_sp_pairs(
    const Comparison& comparison, const std::string& dtype, Protocol protocol);

}  // namespace portolan
