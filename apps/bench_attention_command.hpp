// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "apps/attention_benchmark.hpp"
#include "apps/gnuplot.hpp"
#include "apps/report_plots.hpp"

namespace CLI {
class App;
}

namespace portolan {

void add_bench_attention_command(CLI::App& bench);

/// Rows as lines for a terminal, as CSV (RFC 4180) and as JSON. Bytes, seconds and FLOP/s in CSV
/// and JSON; milliseconds, MB (10^6 bytes) and GFLOP/s for people.
[[nodiscard]] std::string attention_table_header();
[[nodiscard]] std::string attention_table_line(const AttentionBenchmarkRow& row);
[[nodiscard]] std::string attention_csv(const std::vector<AttentionBenchmarkRow>& rows);
[[nodiscard]] nlohmann::ordered_json attention_json(const std::vector<AttentionBenchmarkRow>& rows);

/// Figures over the length, one curve per method: time, rate and memory for each pass, dtype and
/// head_dim. Rows that were not measured are left out.
struct NamedFigure {
  std::string name;  ///< for a file
  Figure figure;
};
[[nodiscard]] std::vector<NamedFigure> attention_figures(
    const std::vector<AttentionBenchmarkRow>& rows, const Gnuplot& gnuplot);

}  // namespace portolan
