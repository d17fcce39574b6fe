// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <array>
#include <functional>
#include <map>
#include <tuple>

#include "apps/bench_attention_command.hpp"
#include "apps/benchmark_samples.hpp"
#include "apps/comparison_table.hpp"
#include "apps/plot_style.hpp"

namespace portolan {
namespace {

constexpr double kMegabyte = 1e6;
constexpr std::array kMarkers{7, 5, 9, 13, 11};

/// A figure's rows, and what is drawn of each.
struct Quantity {
  const char* name;
  const char* caption;
  const char* unit;
  std::function<PlotPoint(const AttentionBenchmarkRow&)> point;
};

const std::vector<Quantity>& quantities() {
  static const std::vector<Quantity> all{
      {"time", "Time", "ms",
       [](const AttentionBenchmarkRow& row) {
         const SampleSummary ms = summary_of(row.samples_s);
         return PlotPoint{static_cast<double>(row.setting.length), 1e3 * ms.median,
                          1e3 * ms.minimum, 1e3 * ms.percentile80};
       }},
      {"rate", "Rate", "GFLOP/s",
       [](const AttentionBenchmarkRow& row) {
         return plain_point(row.setting.length, 1e-9 * row.rate());
       }},
      {"memory", "Memory above the operands", "MB", [](const AttentionBenchmarkRow& row) {
         return plain_point(row.setting.length, static_cast<double>(row.peak_bytes) / kMegabyte);
       }}};
  return all;
}

std::vector<PlotSeries> series_of(const std::vector<const AttentionBenchmarkRow*>& rows,
                                  const Quantity& quantity) {
  std::map<AttentionMethod, PlotSeries> by_method;
  for (const AttentionBenchmarkRow* row : rows) {
    const auto place = static_cast<std::size_t>(row->setting.method);
    PlotSeries& series = by_method[row->setting.method];
    series.label = name_of(row->setting.method);
    series.color = kSeriesColors[place];
    series.marker = kMarkers[place];
    series.points.push_back(quantity.point(*row));
  }
  std::vector<PlotSeries> all;
  for (auto& [method, series] : by_method) all.push_back(std::move(series));
  return all;
}

}  // namespace

std::string attention_table_header() {
  return "method            pass      dtype  head_dim  length    min ms  median ms    p80 ms   "
         "peak MB"
         "   GFLOP/s   of GEMM  max error";
}

std::string attention_table_line(const AttentionBenchmarkRow& row) {
  const AttentionBenchmarkCase& s = row.setting;
  const std::string start = fmt::format("{:<16}  {:<8}  {:<5}  {:>8}  {:>6}  ", name_of(s.method),
                                        name_of(s.pass), name_of(s.dtype), s.head_dim, s.length);
  if (!row.refusal.empty()) return start + row.refusal;
  const SampleSummary seconds = summary_of(row.samples_s);
  return start + fmt::format("{:>8}  {:>9}  {:>8}  {:>8}  {:>8}  {:>8}  {:>9}",
                             number_text(1e3 * seconds.minimum), number_text(1e3 * seconds.median),
                             number_text(1e3 * seconds.percentile80),
                             number_text(static_cast<double>(row.peak_bytes) / kMegabyte),
                             number_text(1e-9 * row.rate()),
                             percent_text(row.rate() / row.product_rate),
                             number_text(row.max_error));
}

std::string attention_csv(const std::vector<AttentionBenchmarkRow>& rows) {
  std::string text = fmt::format(
      "method,pass,dtype,head_dim,length,batch,heads,kv_heads,{},peak_bytes,flop_per_s,"
      "gemm_flop_per_s,gemm_share,max_error,refusal\n",
      kTimesCsvHeader);
  for (const AttentionBenchmarkRow& row : rows) {
    const AttentionBenchmarkCase& s = row.setting;
    text += fmt::format("{},{},{},{},{},{},{},{},", name_of(s.method), name_of(s.pass),
                        name_of(s.dtype), s.head_dim, s.length, s.batch, s.heads, s.key_heads);
    if (row.refusal.empty()) {
      text +=
          fmt::format("{},{},{},{},{},{},\n", times_csv(row.samples_s), row.peak_bytes, row.rate(),
                      row.product_rate, row.rate() / row.product_rate, row.max_error);
    } else {
      text += fmt::format("0,,,,,,,,,{}\n", csv_quoted(row.refusal));
    }
  }
  return text;
}

nlohmann::ordered_json attention_json(const std::vector<AttentionBenchmarkRow>& rows) {
  nlohmann::ordered_json array = nlohmann::ordered_json::array();
  for (const AttentionBenchmarkRow& row : rows) {
    const AttentionBenchmarkCase& s = row.setting;
    nlohmann::ordered_json item{{"method", name_of(s.method)},
                                {"pass", name_of(s.pass)},
                                {"dtype", name_of(s.dtype)},
                                {"head_dim", s.head_dim},
                                {"length", s.length},
                                {"batch", s.batch},
                                {"heads", s.heads},
                                {"kv_heads", s.key_heads}};
    if (row.refusal.empty()) {
      item["time_s"] = times_json(row.samples_s);
      item["peak_bytes"] = row.peak_bytes;
      item["flop_per_s"] = row.rate();
      item["gemm_flop_per_s"] = row.product_rate;
      item["gemm_share"] = row.rate() / row.product_rate;
      item["max_error"] = row.max_error;
    } else {
      item["refusal"] = row.refusal;
    }
    array.push_back(std::move(item));
  }
  return array;
}

std::vector<NamedFigure> attention_figures(const std::vector<AttentionBenchmarkRow>& rows,
                                           const Gnuplot& gnuplot) {
  std::map<std::tuple<AttentionPass, DType, std::int64_t>,
           std::vector<const AttentionBenchmarkRow*>>
      panels;
  for (const AttentionBenchmarkRow& row : rows) {
    if (!row.refusal.empty()) continue;
    panels[{row.setting.pass, row.setting.dtype, row.setting.head_dim}].push_back(&row);
  }
  std::vector<NamedFigure> figures;
  for (const auto& [key, members] : panels) {
    const auto& [pass, dtype, head_dim] = key;
    for (const Quantity& quantity : quantities()) {
      const LinePlot plot{"sequence length",
                          quantity.unit,
                          series_of(members, quantity),
                          quantity.name == std::string("time"),
                          {}};
      const std::string name = fmt::format("attention-{}-{}-{}-d{}", quantity.name, name_of(pass),
                                           name_of(dtype), head_dim);
      const std::string caption = fmt::format("{}, {}, {}, head_dim {}", quantity.caption,
                                              name_of(pass), name_of(dtype), head_dim);
      figures.push_back({name, draw(gnuplot, plot_script(plot), name, caption)});
    }
  }
  return figures;
}

}  // namespace portolan
