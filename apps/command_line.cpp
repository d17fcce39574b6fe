// SPDX-License-Identifier: Apache-2.0
#include "apps/command_line.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <new>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "apps/commands.hpp"
#include "apps/launch.hpp"
#include "core/error.hpp"
#include "core/error_line.hpp"
#include "core/log.hpp"
#include "core/printable.hpp"
#include "runtime/version.hpp"

namespace portolan {
namespace {

/// The innermost subcommand that was named: its help is the one to point to.
const CLI::App& named_command(const CLI::App& application) {
  const auto commands = application.get_subcommands();
  return commands.empty() ? application : named_command(*commands.front());
}

/// "portolan bench attention".
std::string command_path(const CLI::App& command) {
  const CLI::App* parent = command.get_parent();
  return parent == nullptr ? command.get_name() : command_path(*parent) + " " + command.get_name();
}

void describe(CLI::App& application) {
  application.set_help_flag("-h,--help", "Print this help and exit");
  const BuildInformation build = build_information();
  application.set_version_flag("--version",
                               fmt::format("portolan {} ({})", build.version, build.git_commit),
                               "Print the version and exit");
  application.require_subcommand(1);
  application.get_formatter()->column_width(32);
  application.footer(
      "Examples:\n"
      "  portolan compare --quick                    all modes on this machine, in a minute\n"
      "  portolan compare --out results              the full comparison, with report.html\n"
      "  portolan report a/compare.json b/compare.json --out both\n"
      "  portolan info                               what this build and machine can do\n"
      "\n"
      "Exit codes: 0 done, 1 failed, 2 bad usage or bad input.\n"
      "Environment: PORTOLAN_LOG=trace|debug|info|warn|error|off sets what is logged to stderr.");
  add_compare_command(application);
  add_report_command(application);
  add_info_command(application);
  add_inspect_command(application);
  add_convert_command(application);
  add_plan_command(application);
  add_logits_command(application);
  add_generate_command(application);
  add_inference_command(application);
  add_fill_mask_command(application);
  add_eval_command(application);
  add_train_command(application);
  add_tokenize_command(application);
  add_attention_command(application);
  add_bench_command(application);
  add_worker_command(application);
}

/// CLI11 would say that a subcommand is missing.
void check_command_names(const CLI::App& application, int argc, const char* const* argv) {
  const CLI::App* command = &application;
  for (int i = 1; i < argc; ++i) {
    const CLI::App* named = nullptr;
    std::vector<std::string> names;
    for (const CLI::App* each : command->get_subcommands({})) {
      if (each->get_name() == argv[i]) named = each;
      if (!each->get_group().empty()) names.push_back(each->get_name());
    }
    if (names.empty() || command->get_option_no_throw(argv[i]) != nullptr) return;
    if (named == nullptr) {
      throw UsageError(fmt::format("unknown {} '{}': expected one of {} (see {} --help)",
                                   argv[i][0] == '-' ? "option" : "command", printable(argv[i]),
                                   fmt::join(names, ", "), command_path(*command)));
    }
    command = named;
  }
}

/// The arguments as CLI11 takes them, last first. It would take the one after "--option=" for the
/// option's value, which is empty.
std::vector<std::string> reversed_arguments(int argc, const char* const* argv) {
  std::vector<std::string> arguments;
  for (int i = argc - 1; i > 0; --i) {
    const std::string_view argument = argv[i];
    if (argument.starts_with("--") && argument.find('=') == argument.size() - 1) {
      arguments.emplace_back();
      arguments.emplace_back(argument.substr(0, argument.size() - 1));
    } else {
      arguments.emplace_back(argument);
    }
  }
  return arguments;
}

/// The logger itself would go on with its default.
void check_log_level() {
  const char* level = std::getenv("PORTOLAN_LOG");
  if (level == nullptr || *level == '\0' || parse_log_level(level)) return;
  throw UsageError(fmt::format(
      "PORTOLAN_LOG: '{}' is not one of trace, debug, info, warn, error, off", printable(level)));
}

/// Help, version and usage errors are the same on every rank, so under mpirun one rank speaks.
bool speaks_for_all() { return launched_rank() == 0; }

int finish_parse(const CLI::App& application, const CLI::ParseError& error) {
  if (error.get_exit_code() == static_cast<int>(CLI::ExitCodes::Success)) {
    if (speaks_for_all()) {
      const bool is_help =
          error.get_name() == "CallForHelp" || error.get_name() == "CallForAllHelp";
      fmt::print("{}\n", is_help ? application.help() : std::string(error.what()));
    }
    return 0;
  }
  if (speaks_for_all()) {
    print_error(
        fmt::format("{} (see {} --help)", error.what(), command_path(named_command(application))));
  }
  return 2;
}

/// What fails here failed before the ranks of a job worked together, so most likely on all of them
/// for one reason. The first says it; another speaks only if it is still there after the launcher
/// had time to end the job.
void print_error_of_job(std::string_view message) {
  constexpr std::chrono::seconds kTimeOfLauncher{5};
  if (launched_rank() != 0) std::this_thread::sleep_for(kTimeOfLauncher);
  print_error(message);
}

}  // namespace

int run_command_line(int argc, const char* const* argv) {
  try {
    CLI::App application(
        "Portolan runs one transformer forward pass under several kinds of\n"
        "parallelism, and measures and proves what each of them does.",
        "portolan");
    try {
      check_log_level();
      describe(application);
      check_command_names(application, argc, argv);
      application.parse(reversed_arguments(argc, argv));
    } catch (const CLI::ParseError& error) {
      return finish_parse(application, error);
    }
    // What was flushed before may have failed before.
    if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0) {
      throw Error("stdout: what was printed could not be written");
    }
    return 0;
  } catch (const Error& error) {
    print_error_of_job(error.what());
    return error.exit_code();
  } catch (const std::bad_alloc&) {
    print_error_of_job("out of memory");
  } catch (const std::exception& error) {
    print_error_of_job(error.what());
  }
  return 1;
}

}  // namespace portolan
