// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "apps/report_plots.hpp"

namespace portolan {
namespace {

/// A logarithmic axis keeps lengths apart that double many times.
constexpr double kLogarithmicFrom = 16.0;
/// Points of different series at the same place are set apart by this share of the axis, so that
/// their error bars stay visible.
constexpr double kSpread = 0.009;

constexpr const char* kStyle =
    "set border 3 lc rgb '#9aa5b1'\n"
    "set grid ytics lc rgb '#e4e8ec' lt 1\n"
    "set tics nomirror textcolor rgb '#52606d' scale 0.5\n"
    "set xlabel textcolor rgb '#52606d'\n"
    "set ylabel textcolor rgb '#52606d'\n"
    "set key outside above center horizontal reverse Left maxrows 3 samplen 1.5 textcolor rgb "
    "'#1f2933'\n"
    "set bars 0.5\n"
    "set format y '%g'\n";

std::string data_block(std::size_t index, const std::string& lines) {
  return fmt::format("$d{} << EOD\n{}EOD\n", index, lines);
}

struct Axis {
  double low = 0.0;
  double high = 0.0;
  bool logarithmic = false;
  std::set<double> tics;

  [[nodiscard]] double moved(double x, double share) const {
    return logarithmic ? x * std::pow(high / low, share) : x + share * (high - low);
  }
};

Axis axis_of(const LinePlot& plot) {
  Axis axis;
  for (const PlotSeries& series : plot.series) {
    for (const PlotPoint& point : series.points) axis.tics.insert(point.x);
  }
  const double first = *axis.tics.begin();
  const double last = *axis.tics.rbegin();
  axis.logarithmic = first > 0.0 && last / first > kLogarithmicFrom;
  if (axis.logarithmic) {
    axis.low = first / 1.3;
    axis.high = last * 1.3;
  } else {
    const double margin = last > first ? 0.1 * (last - first) : 0.5 * std::max(first, 1.0);
    axis.low = first - margin;
    axis.high = last + margin;
  }
  return axis;
}

}  // namespace

std::string plot_script(const LinePlot& plot) {
  const Axis axis = axis_of(plot);
  std::string tics;
  for (const double tic : axis.tics) tics += fmt::format("{}{:g}", tics.empty() ? "" : ", ", tic);
  std::string script = kStyle;
  script += fmt::format("set xlabel {}\nset ylabel {}\n", gnuplot_quoted(plot.x_label),
                        gnuplot_quoted(plot.y_label));
  if (axis.logarithmic) script += "set logscale x 2\n";
  script += fmt::format("set xrange [{:g}:{:g}]\nset xtics ({})\n", axis.low, axis.high, tics);
  script += plot.from_zero
                ? "set yrange [0:*]\nset offsets graph 0, graph 0, graph 0.06, graph 0\n"
                : "set yrange [0<*:*]\nset offsets graph 0, graph 0, graph 0.1, graph 0.1\n";
  std::string clauses;
  if (plot.reference) {
    clauses = fmt::format("{} with lines lc rgb '#9aa5b1' lw 1 dt 2 notitle", *plot.reference);
  }
  const double middle = 0.5 * static_cast<double>(plot.series.size() - 1);
  for (std::size_t i = 0; i < plot.series.size(); ++i) {
    const PlotSeries& series = plot.series[i];
    std::string lines;
    for (const PlotPoint& point : series.points) {
      const double x = axis.moved(point.x, kSpread * (static_cast<double>(i) - middle));
      lines += fmt::format("{} {} {} {}\n", x, point.y, point.low, point.high);
    }
    script += data_block(i, lines);
    clauses +=
        fmt::format("{}$d{} using {} with {} lc rgb '{}' pt {} dt {} ps 0.55 lw 1.7 title {}",
                    clauses.empty() ? "" : ", ", i, plot.error_bars ? "1:2:3:4" : "1:2",
                    plot.error_bars ? "yerrorlines" : "linespoints", series.color, series.marker,
                    series.dash, gnuplot_quoted(series.label));
  }
  return script + "plot " + clauses + "\n";
}

std::string plot_script(const BarPlot& plot) {
  std::string script = kStyle;
  script += fmt::format("set ylabel {}\n", gnuplot_quoted(plot.y_label));
  script +=
      "set style data histogram\nset style histogram clustered gap 1\n"
      "set style fill solid 0.9 noborder\nset boxwidth 0.9\nset xtics scale 0\n"
      "set yrange [0:*]\nset offsets graph 0, graph 0, graph 0.06, graph 0\n"
      "set datafile missing '?'\n";
  script += fmt::format("set xrange [-0.6:{:g}]\n", static_cast<double>(plot.groups.size()) - 0.4);
  std::string lines;
  for (std::size_t group = 0; group < plot.groups.size(); ++group) {
    lines += fmt::format("\"{}\"", plot.groups[group]);
    for (const BarPlot::Series& series : plot.series) {
      lines += series.values[group] ? fmt::format(" {}", *series.values[group]) : " ?";
    }
    lines += '\n';
  }
  script += data_block(0, lines) + "plot ";
  for (std::size_t i = 0; i < plot.series.size(); ++i) {
    script += fmt::format("{}$d0 using {}:xtic(1) lc rgb '{}' title {}", i > 0 ? ", " : "", i + 2,
                          plot.series[i].color, gnuplot_quoted(plot.series[i].label));
  }
  return script + "\n";
}

}  // namespace portolan
