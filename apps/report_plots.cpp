// SPDX-License-Identifier: Apache-2.0
#include "apps/report_plots.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <map>
#include <set>

#include "apps/plot_style.hpp"

namespace portolan {
namespace {

/// What one figure over the length shows: `none`, and the other modes on a number of ranks.
struct Panel {
  const Comparison* comparison = nullptr;
  std::string dtype;
  int ranks = 1;
  std::string caption;
  std::string id;  ///< within the page
};

std::vector<Panel> panels_of(const std::vector<Comparison>& comparisons) {
  std::vector<Panel> panels;
  for (std::size_t i = 0; i < comparisons.size(); ++i) {
    for (const std::string& dtype : dtypes_of(comparisons[i])) {
      std::set<int> counts;
      for (const CompareRow& row : comparisons[i].rows) {
        if (row.protocol == Protocol::fair && row.dtype == dtype && row.ranks > 1) {
          counts.insert(row.ranks);
        }
      }
      const bool several = counts.size() > 1;
      if (counts.empty()) counts.insert(1);
      for (const int ranks : counts) {
        const std::string suffix = several ? fmt::format(", {} ranks", ranks) : "";
        panels.push_back({&comparisons[i], dtype, ranks,
                          place_caption(comparisons, i, dtype) + suffix,
                          fmt::format("{}-{}-{}", i, dtype, ranks)});
      }
    }
  }
  return panels;
}

using PointOf = std::function<std::optional<PlotPoint>(const CompareRow&)>;

/// One curve per mode of a panel, of its proven rows.
std::vector<PlotSeries> series_of(const Panel& panel, const PointOf& point_of) {
  std::map<int, PlotSeries> by_mode;
  for (const CompareRow& row : panel.comparison->rows) {
    const bool in_panel = row.mode == "none" || row.ranks == panel.ranks;
    if (row.protocol != Protocol::fair || !row.proven || !row.time_s || row.dtype != panel.dtype ||
        !in_panel) {
      continue;
    }
    const auto point = point_of(row);
    if (!point) continue;
    PlotSeries& series = by_mode[mode_place(row.mode)];
    series.label = row.mode;
    series.color = style_of_mode(row.mode).color;
    series.marker = style_of_mode(row.mode).marker;
    series.points.push_back(*point);
  }
  std::vector<PlotSeries> all;
  for (auto& [place, series] : by_mode) all.push_back(std::move(series));
  return all;
}

std::vector<Figure> figures_over_length(const std::vector<Comparison>& comparisons,
                                        const Gnuplot& gnuplot, const std::string& name,
                                        const std::string& quantity, const LinePlot& style,
                                        const PointOf& point_of) {
  std::vector<Figure> figures;
  for (const Panel& panel : panels_of(comparisons)) {
    LinePlot plot = style;
    plot.series = series_of(panel, point_of);
    if (plot.series.empty()) continue;
    figures.push_back(
        draw(gnuplot, plot_script(plot), name + "-" + panel.id, quantity + ", " + panel.caption));
  }
  return figures;
}

std::vector<Figure> memory_figures_of(const std::vector<Comparison>& comparisons,
                                      const Gnuplot& gnuplot, const std::string& name,
                                      const std::string& quantity,
                                      std::vector<std::int64_t> RowMemory::*field) {
  return figures_over_length(comparisons, gnuplot, name, quantity,
                             {"sequence length", "GB per rank", {}, false, {}},
                             [field](const CompareRow& row) -> std::optional<PlotPoint> {
                               const auto bytes = largest(row.memory.*field);
                               if (!bytes) return std::nullopt;
                               return plain_point(row.seq_len, static_cast<double>(*bytes) / 1e9);
                             });
}

}  // namespace

std::vector<std::string> dtypes_of(const Comparison& comparison) {
  std::vector<std::string> dtypes;
  for (const CompareRow& row : comparison.rows) {
    if (std::find(dtypes.begin(), dtypes.end(), row.dtype) == dtypes.end()) {
      dtypes.push_back(row.dtype);
    }
  }
  return dtypes;
}

std::vector<Figure> latency_figures(const std::vector<Comparison>& comparisons,
                                    const Gnuplot& gnuplot) {
  return figures_over_length(comparisons, gnuplot, "latency", "One forward",
                             {"sequence length", "seconds", {}, true, {}},
                             [](const CompareRow& row) -> std::optional<PlotPoint> {
                               return time_point(row.seq_len, *row.time_s);
                             });
}

std::vector<Figure> relative_figures(const std::vector<Comparison>& comparisons,
                                     const Gnuplot& gnuplot) {
  std::vector<Figure> figures;
  for (const Panel& panel : panels_of(comparisons)) {
    LinePlot plot{"sequence length", "time / median of none", {}, true, 1.0, false};
    plot.series = series_of(panel, [&panel](const CompareRow& row) -> std::optional<PlotPoint> {
      const CompareRow* none = baseline_of(row, panel.comparison->rows);
      if (none == nullptr || !none->proven) return std::nullopt;
      const double unit = none->time_s->median;
      return PlotPoint{static_cast<double>(row.seq_len), row.time_s->median / unit,
                       row.time_s->minimum / unit, row.time_s->maximum / unit};
    });
    if (plot.series.size() < 2) continue;
    figures.push_back(draw(gnuplot, plot_script(plot), "relative-" + panel.id,
                           "Time over that of none, " + panel.caption));
  }
  return figures;
}

std::vector<Figure> memory_figures(const std::vector<Comparison>& comparisons,
                                   const Gnuplot& gnuplot) {
  std::vector<Figure> figures = memory_figures_of(comparisons, gnuplot, "allocated",
                                                  "Allocated, peak", &RowMemory::allocated_peak);
  for (Figure& figure : memory_figures_of(comparisons, gnuplot, "resident", "Resident, peak",
                                          &RowMemory::resident_peak)) {
    figures.push_back(std::move(figure));
  }
  return figures;
}

std::vector<Figure> communication_figures(const std::vector<Comparison>& comparisons,
                                          const Gnuplot& gnuplot) {
  std::vector<Figure> figures;
  for (const Panel& panel : panels_of(comparisons)) {
    BarPlot plot;
    plot.y_label = "% of the forward";
    std::set<std::int64_t> lengths;
    for (const CompareRow& row : panel.comparison->rows) {
      if (row.dtype == panel.dtype) lengths.insert(row.seq_len);
    }
    for (const std::int64_t length : lengths) plot.groups.push_back(std::to_string(length));
    const auto curves = series_of(panel, [](const CompareRow& row) -> std::optional<PlotPoint> {
      const auto share = communication_share(row);
      if (row.ranks == 1 || !share) return std::nullopt;
      return plain_point(row.seq_len, 100.0 * *share);
    });
    for (const PlotSeries& curve : curves) {
      BarPlot::Series series{curve.label, curve.color, {}};
      for (const std::int64_t length : lengths) {
        const auto point = std::find_if(
            curve.points.begin(), curve.points.end(),
            [length](const PlotPoint& each) { return each.x == static_cast<double>(length); });
        series.values.push_back(point == curve.points.end() ? std::nullopt
                                                            : std::optional(point->y));
      }
      plot.series.push_back(std::move(series));
    }
    if (plot.series.empty()) continue;
    figures.push_back(draw(gnuplot, plot_script(plot), "communication-" + panel.id,
                           "Share of communication, " + panel.caption));
  }
  return figures;
}

}  // namespace portolan
