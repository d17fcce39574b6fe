// SPDX-License-Identifier: Apache-2.0
#include <fmt/chrono.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "apps/commands.hpp"
#include "apps/compare_environment.hpp"
#include "apps/compare_run.hpp"
#include "apps/compare_settings.hpp"
#include "apps/comparison_table.hpp"
#include "apps/gnuplot.hpp"
#include "apps/json_text.hpp"
#include "apps/launch.hpp"
#include "apps/machine.hpp"
#include "apps/output_file.hpp"
#include "apps/progress.hpp"
#include "apps/report_page.hpp"
#include "attention/tiles.hpp"
#include "core/error.hpp"
#include "models/config.hpp"
#include "models/model_plan.hpp"
#include "runtime/version.hpp"

namespace portolan {
namespace {

/// The command line as it was given: CLI11 does not keep it.
std::vector<std::string> own_command_line() {
  std::ifstream file("/proc/self/cmdline");
  std::vector<std::string> words;
  for (std::string word; std::getline(file, word, '\0');) words.push_back(word);
  return words;
}

void print_opening(const CompareSettings& settings, const Machine& machine, Progress& progress) {
  const std::size_t jobs = plan_jobs(settings).size();
  progress.milestone(fmt::format("{}: {} of {} cores, {} job{} into {}", machine.host.cpu_model,
                                 settings.cores, machine.usable_cores, jobs, jobs == 1 ? "" : "s",
                                 settings.out.string()));
  if (is_busy(machine.load_average, machine.usable_cores)) {
    progress.milestone(
        fmt::format("other work is running here (load average {:.1f}): expect longer times with "
                    "more spread",
                    machine.load_average));
  }
}

/// Warns of jobs that this machine's memory is too small for: Linux would end them without a word.
void warn_of_memory(const CompareSettings& settings, const Machine& machine, Progress& progress) {
  if (settings.device == "cuda") return;
  const ModelConfig config = preset_config(settings.preset).with_layers(settings.layers);
  double most = 0.0;
  std::string which;
  for (const CompareJob& job : plan_jobs(settings)) {
    const ModelPlan plan(config, ParallelLayout::of(parallel_mode_from_name(job.mode), job.ranks));
    const DType dtype = dtype_from_name(job.dtype);
    double bytes = 0.0;
    for (int rank = 0; rank < job.ranks; ++rank) {
      bytes += static_cast<double>(plan.weight_bytes(rank, dtype)) +
               static_cast<double>(
                   plan.activation_bytes(rank, settings.batch, settings.seq_lens.back(), dtype));
    }
    if (job.protocol == Protocol::published) bytes *= 2.0;
    if (bytes > most) {
      most = bytes;
      which = job.to_string();
    }
  }
  if (most > static_cast<double>(machine.memory_bytes)) {
    progress.milestone(fmt::format("{} needs about {:.1f} GB, but this machine has {:.1f} GB",
                                   which, most / 1e9,
                                   static_cast<double>(machine.memory_bytes) / 1e9));
  }
}

/// What every job would stumble over is refused before the first.
void check_jobs(const CompareSettings& settings, const Machine& machine) {
  const std::vector<std::string_view> devices = build_information().devices;
  if (std::ranges::find(devices, settings.device) == devices.end()) {
    throw UnsupportedError(fmt::format("--device {}: this build has the devices {}",
                                       settings.device, fmt::join(devices, ", ")));
  }
  if (!settings.attention_tiles.empty()) {
    static_cast<void>(AttentionTileTable::read(settings.attention_tiles, machine.host.cpu_model));
  }
}

/// Says what does not hold, when something does not: the rows themselves are in the table.
void report_problems(const ComparisonResult& result) {
  if (!result.interruption.empty()) {
    throw Error(result.interruption + "; the ranks were ended");
  }
  const auto refused = std::count_if(
      result.rows.begin(), result.rows.end(),
      [](const CompareRow& row) { return row.protocol == Protocol::fair && !row.proven; });
  if (refused == 0 && result.failed_jobs == 0) return;
  const auto first =
      std::find_if(result.rows.begin(), result.rows.end(),
                   [](const CompareRow& row) { return !row.proven && !row.reason.empty(); });
  throw Error(fmt::format("{} of {} rows refused, {} job{} failed; the first reason: {}", refused,
                          result.rows.size(), result.failed_jobs,
                          result.failed_jobs == 1 ? "" : "s",
                          first == result.rows.end() ? "unknown" : first->reason));
}

void run_compare(const CompareOptions& options) {
  if (const std::string launch = enclosing_launch(); !launch.empty()) {
    throw UsageError(
        fmt::format("compare starts the ranks itself, but runs under {}: run it without", launch));
  }
  const auto date = std::chrono::system_clock::now();
  const Machine machine = describe_machine();
  const CompareSettings settings = resolve_settings(
      options, machine.usable_cores,
      fmt::format("{:%Y%m%d-%H%M%S}", fmt::localtime(std::chrono::system_clock::to_time_t(date))));
  check_jobs(settings, machine);
  const Launcher launcher = find_launcher(settings.launcher);
  const Gnuplot gnuplot;
  prepare_output_folder(settings.out);

  Progress progress(options.common.quiet);
  print_opening(settings, machine, progress);
  warn_of_memory(settings, machine, progress);
  ComparisonRun run(settings, launcher, own_path(), progress);
  const ComparisonResult result = run.run();
  if (result.rows.empty()) {
    progress.clear();
    report_problems(result);
  }

  Comparison comparison;
  comparison.environment =
      describe_environment(settings, machine, launcher.version, own_command_line(), date);
  if (!result.interruption.empty()) comparison.environment["interruption"] = result.interruption;
  comparison.environment["jobs"] = result.jobs;
  comparison.rows = result.rows;
  const std::string document = json_text(to_json(comparison));
  write_file(settings.out / "compare.csv", csv_table(comparison.rows));
  write_file(settings.out / "compare.json", document);
  write_file(settings.out / "report.html", report_page({comparison}, gnuplot));
  progress.clear();
  if (options.common.json) {
    fmt::print("{}", document);
  } else {
    fmt::print(
        "{}, {} layer{}, batch {}\n\n{}\nwrote {}/compare.csv, compare.json and report.html\n",
        settings.preset, settings.layers, settings.layers == 1 ? "" : "s", settings.batch,
        text_table(comparison.rows), settings.out.string());
  }
  std::fflush(stdout);
  report_problems(result);
}

void add_text(CLI::App& command, const std::string& name, const std::string& value_name,
              const std::string& help, std::optional<std::string>& target) {
  add_text_option(command, name, help, value_name,
                  [&target](const std::string& text) { target = text; });
}

}  // namespace

void add_compare_command(CLI::App& application) {
  CLI::App& command = *application.add_subcommand(
      "compare", "Measure and prove none, tp, sp and ring beside each other");
  auto options = std::make_shared<CompareOptions>();
  add_text(command, "--preset", "NAME",
           fmt::format("Model dimensions: {} (default llama-7b)", fmt::join(preset_names(), ", ")),
           options->preset);
  add_text(command, "--layers", "N", "Layers (default 2)", options->layers);
  add_text(command, "--seq-lens", "LIST", "Sequence lengths (default 256,512,1024)",
           options->seq_lens);
  add_text(command, "--batch", "N", "Sequences per forward (default 2)", options->batch);
  add_text(command, "--modes", "LIST", "Of none,tp,sp,ring (default all)", options->modes);
  add_text(command, "--dtypes", "LIST", "Of f32,bf16,f16 (default f32,bf16)", options->dtypes);
  add_text(command, "--ranks", "LIST", "Ranks of tp, sp and ring (default 2), e.g. 2,4,8",
           options->ranks);
  add_text(command, "--warmup", "N", "Forwards before timing (default 1)", options->warmup);
  add_text(command, "--repeat", "N", "Timed forwards (default 3)", options->repeat);
  add_text(command, "--protocol", "LIST",
           "fair (default), published: sp, then tp in one process, one cold forward each, as the\n"
           "published tables were taken; fair,published does both",
           options->protocol);
  command.add_flag("--quick", options->quick,
                   "One layer, batch 1, lengths 128,256, 2 forwards: under a minute on 2 cores");
  add_text(command, "--launcher", "PROGRAM", "mpirun (default) or srun", options->launcher);
  add_text(command, "--out", "DIR", "Where results go, created if need be (default compare-DATE)",
           options->out);
  add_text(command, "--timeout", "SECONDS", "Longest silence of a job (default 1200)",
           options->timeout);
  command.add_flag("--oversubscribe", options->oversubscribe, "Allow more ranks than cores");
  add_run_options(command, options->common);
  add_link_option(command, options->common);
  command.get_option("--threads")
      ->description("Cores in total, the same for every mode (default: all usable ones)");
  add_output_options(command, options->common);
  command.footer(
      "Each mode and dtype runs in fresh processes. All have the same number of cores in total:\n"
      "`none` is one rank on all of them, N ranks have a share each. (On device cuda each rank "
      "has\n"
      "a GPU, on serial a core.) A row counts only if its communication counters equal the plan's\n"
      "closed form, nothing was allocated before its model, and its logits agree with `none`. DIR\n"
      "gets compare.csv, compare.json and report.html, also when an interrupt ends the comparison\n"
      "early. Times are medians with the number of samples and [min, max]; GB are 10^9 bytes.\n"
      "\n"
      "Examples:\n"
      "  portolan compare --quick\n"
      "  portolan compare --out results\n"
      "  portolan compare --preset llama-13b --modes none,tp --ranks 2,4,8 --dtypes bf16\n"
      "  portolan compare --protocol fair,published --dtypes f32 --out beside");
  command.callback([options] { run_compare(*options); });
}

}  // namespace portolan
