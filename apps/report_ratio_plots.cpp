// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>
#include <set>

#include "apps/plot_style.hpp"
#include "apps/published_results.hpp"
#include "apps/report_plots.hpp"

namespace portolan {
namespace {

std::optional<double> memory_ratio(const CompareRow& tp, const CompareRow& sp) {
  const auto tp_bytes = largest(tp.memory.allocated_peak);
  const auto sp_bytes = largest(sp.memory.allocated_peak);
  if (!tp_bytes || !sp_bytes || *tp_bytes <= 0) return std::nullopt;
  return static_cast<double>(*sp_bytes) / static_cast<double>(*tp_bytes);
}

const char* ranks_label(const Comparison& comparison) {
  switch (resources_of(comparison)) {
    case Resources::equal_cores:
      return "ranks (same cores in total)";
    case Resources::gpu_each:
      return "ranks (a GPU each)";
    case Resources::unequal_cores:
      break;
  }
  return "ranks";
}

/// A quantity over ranks at the longest length; one rank of any mode is `none`.
template <typename PointOf>
std::vector<PlotSeries> series_over_ranks(const Comparison& comparison, const std::string& dtype,
                                          std::int64_t length, PointOf point_of) {
  std::map<int, PlotSeries> by_mode;
  const CompareRow* none = find_row(comparison.rows, Protocol::fair, "none", dtype, length);
  bool is_curve = false;
  for (const CompareRow& row : comparison.rows) {
    if (row.protocol != Protocol::fair || !row.proven || row.dtype != dtype ||
        row.seq_len != length || row.mode == "none") {
      continue;
    }
    PlotSeries& series = by_mode[mode_place(row.mode)];
    if (series.points.empty()) {
      series.label = row.mode;
      series.color = style_of_mode(row.mode).color;
      series.marker = style_of_mode(row.mode).marker;
      if (none != nullptr && none->proven) series.points.push_back(point_of(*none));
    } else if (series.points.back().x > 1.0) {
      is_curve = true;
    }
    series.points.push_back(point_of(row));
  }
  std::vector<PlotSeries> all;
  if (!is_curve) return all;
  for (auto& [place, series] : by_mode) all.push_back(std::move(series));
  return all;
}

}  // namespace

std::vector<std::pair<const CompareRow*, const CompareRow*>> tp_sp_pairs(
    const Comparison& comparison, const std::string& dtype, Protocol protocol) {
  std::vector<std::pair<const CompareRow*, const CompareRow*>> pairs;
  std::set<std::int64_t> lengths;
  for (const CompareRow& tp : comparison.rows) {
    // Rows are sorted by ranks before length, so the first of a length has the fewest.
    if (tp.mode != "tp" || tp.dtype != dtype || tp.protocol != protocol || !tp.time_s ||
        lengths.contains(tp.seq_len)) {
      continue;
    }
    const CompareRow* sp = find_row(comparison.rows, protocol, "sp", dtype, tp.seq_len, tp.ranks);
    if (sp == nullptr || !sp->time_s) continue;
    // Rows in the published order are drawn although they do not pass: they show what it does.
    if (protocol == Protocol::fair && !(tp.proven && sp->proven)) continue;
    lengths.insert(tp.seq_len);
    pairs.emplace_back(&tp, sp);
  }
  return pairs;
}

std::vector<Figure> scaling_figures(const std::vector<Comparison>& comparisons,
                                    const Gnuplot& gnuplot) {
  std::vector<Figure> figures;
  for (std::size_t i = 0; i < comparisons.size(); ++i) {
    for (const std::string& dtype : dtypes_of(comparisons[i])) {
      std::int64_t longest = 0;
      for (const CompareRow& row : comparisons[i].rows) {
        if (row.dtype == dtype) longest = std::max(longest, row.seq_len);
      }
      const char* x_label = ranks_label(comparisons[i]);
      LinePlot time{x_label, "seconds", {}, true, {}};
      time.series = series_over_ranks(comparisons[i], dtype, longest, [](const CompareRow& row) {
        return time_point(row.ranks, *row.time_s);
      });
      LinePlot memory{x_label, "GB allocated per rank", {}, false, {}};
      memory.series = series_over_ranks(comparisons[i], dtype, longest, [](const CompareRow& row) {
        const auto bytes = largest(row.memory.allocated_peak).value_or(0);
        return plain_point(row.ranks, static_cast<double>(bytes) / 1e9);
      });
      if (time.series.empty()) continue;
      const std::string place =
          fmt::format("length {}, {}", longest, place_caption(comparisons, i, dtype));
      figures.push_back(draw(gnuplot, plot_script(time),
                             fmt::format("scaling-time-{}-{}", i, dtype), "One forward, " + place));
      figures.push_back(draw(gnuplot, plot_script(memory),
                             fmt::format("scaling-memory-{}-{}", i, dtype), "Allocated, " + place));
    }
  }
  return figures;
}

std::vector<Figure> ratio_figures(const std::vector<Comparison>& comparisons,
                                  const Gnuplot& gnuplot) {
  LinePlot time{"sequence length", "SP time / TP time", {}, false, 1.0};
  LinePlot memory{"sequence length", "SP memory / TP memory", {}, false, 1.0};
  std::size_t color = 0;
  const auto add = [&color](LinePlot& plot, const std::string& label, int dash,
                            std::vector<PlotPoint> points) {
    if (points.empty()) return;
    plot.series.push_back({label, kSeriesColors[color % kSeriesColors.size()], dash == 1 ? 7 : 6,
                           dash, std::move(points)});
  };
  for (std::size_t i = 0; i < comparisons.size(); ++i) {
    for (const std::string& dtype : dtypes_of(comparisons[i])) {
      std::vector<PlotPoint> times;
      std::vector<PlotPoint> bytes;
      for (const auto& [tp, sp] : tp_sp_pairs(comparisons[i], dtype, Protocol::fair)) {
        times.push_back(plain_point(tp->seq_len, sp->time_s->median / tp->time_s->median));
        if (const auto ratio = memory_ratio(*tp, *sp)) {
          bytes.push_back(plain_point(tp->seq_len, *ratio));
        }
      }
      if (times.empty()) continue;
      const std::string label = comparisons.size() == 1
                                    ? fmt::format("here, {}", dtype)
                                    : fmt::format("machine {}, {}", i + 1, dtype);
      add(time, label, 1, std::move(times));
      add(memory, label, 1, std::move(bytes));
      ++color;
    }
  }
  if (time.series.empty()) return {};
  color = 3;
  for (const PublishedTable& table : published_sequence_parallel_tables()) {
    std::vector<PlotPoint> times;
    std::vector<PlotPoint> bytes;
    for (const PublishedPoint& point : table.points) {
      times.push_back(plain_point(point.seq_len, point.sp_s / point.tp_s));
      bytes.push_back(plain_point(point.seq_len, point.sp_gigabytes / point.tp_gigabytes));
    }
    add(time, std::string(table.name), 2, std::move(times));
    add(memory, std::string(table.name), 2, std::move(bytes));
    color += 2;
  }
  std::vector<Figure> figures;
  figures.push_back(draw(gnuplot, plot_script(time), "ratio-time",
                         "SP time over TP time: below 1, SP is faster"));
  figures.push_back(draw(gnuplot, plot_script(memory), "ratio-memory",
                         "SP memory over TP memory per rank (here: peak allocated)"));
  return figures;
}

std::vector<Figure> protocol_figures(const std::vector<Comparison>& comparisons,
                                     const Gnuplot& gnuplot) {
  std::vector<Figure> figures;
  for (std::size_t i = 0; i < comparisons.size(); ++i) {
    for (const std::string& dtype : dtypes_of(comparisons[i])) {
      const auto pairs = tp_sp_pairs(comparisons[i], dtype, Protocol::published);
      if (pairs.empty()) continue;
      BarPlot time{"seconds", {}, {{"fair", "#0072b2", {}}, {"published order", "#d55e00", {}}}};
      BarPlot memory{"GB allocated per rank", {}, time.series};
      for (const auto& [tp, sp] : pairs) {
        for (const CompareRow* row : {sp, tp}) {
          const std::string group = fmt::format("{} {}", row->mode, row->seq_len);
          time.groups.push_back(group);
          memory.groups.push_back(group);
          const CompareRow* fair = find_row(comparisons[i].rows, Protocol::fair, row->mode, dtype,
                                            row->seq_len, row->ranks);
          const std::array<const CompareRow*, 2> both{fair, row};
          for (std::size_t s = 0; s < both.size(); ++s) {
            const bool measured = both[s] != nullptr && both[s]->time_s.has_value();
            time.series[s].values.push_back(measured ? std::optional(both[s]->time_s->median)
                                                     : std::nullopt);
            const auto bytes = measured ? largest(both[s]->memory.allocated_peak) : std::nullopt;
            memory.series[s].values.push_back(
                bytes ? std::optional(static_cast<double>(*bytes) / 1e9) : std::nullopt);
          }
        }
      }
      const std::string place = place_caption(comparisons, i, dtype);
      figures.push_back(draw(gnuplot, plot_script(time), fmt::format("order-time-{}-{}", i, dtype),
                             "Time, " + place));
      figures.push_back(draw(gnuplot, plot_script(memory),
                             fmt::format("order-memory-{}-{}", i, dtype),
                             "Allocated memory, " + place));
    }
  }
  return figures;
}

}  // namespace portolan
