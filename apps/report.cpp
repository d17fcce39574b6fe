// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "apps/commands.hpp"
#include "apps/comparison.hpp"
#include "apps/gnuplot.hpp"
#include "apps/launch.hpp"
#include "apps/output_file.hpp"
#include "apps/report_page.hpp"
#include "core/error.hpp"

namespace portolan {
namespace {

struct ReportOptions {
  std::vector<std::string> inputs;
  std::string out;
};

void run_report(const ReportOptions& options) {
  // Under a launcher the ranks would all do the same: the first does it.
  if (launched_rank() != 0) return;
  std::vector<Comparison> comparisons;
  for (const std::string& path : options.inputs) comparisons.push_back(read_comparison(path));
  require(!options.out.empty(), "--out: expected a folder, found an empty name");
  const Gnuplot gnuplot;
  const std::filesystem::path folder = options.out;
  prepare_output_folder(folder);
  const auto page = folder / "report.html";
  write_file(page, report_page(comparisons, gnuplot));
  fmt::print("wrote {}\n", page.string());
}

}  // namespace

void add_report_command(CLI::App& application) {
  CLI::App& command =
      *application.add_subcommand("report", "Merge comparisons of several machines into one page");
  auto options = std::make_shared<ReportOptions>();
  command.add_option("FILES", options->inputs, "compare.json files, one per machine")
      ->type_name("")
      ->required();
  command
      .add_option_function<std::string>(
          "--out", [options](const std::string& text) { options->out = text; },
          "Where report.html goes, created if need be")
      ->type_name("DIR")
      ->required();
  command.footer(
      "Examples:\n"
      "  portolan report results/compare.json --out results      draw the page again\n"
      "  portolan report cpu/compare.json gpu/compare.json --out both");
  command.callback([options] { run_report(*options); });
}

}  // namespace portolan
