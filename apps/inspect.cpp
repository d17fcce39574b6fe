// SPDX-License-Identifier: Apache-2.0
#include "models/inspect.hpp"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>
#include <string>

#include "apps/commands.hpp"

namespace portolan {
namespace {

struct InspectOptions {
  std::string path;
  bool json = false;
};

void run_inspect(const InspectOptions& options) {
  const InspectReport report = inspect(options.path);
  fmt::print("{}", options.json ? report.json.dump(2) + "\n" : report.text());
}

}  // namespace

void add_inspect_command(CLI::App& application) {
  CLI::App& command = *application.add_subcommand(
      "inspect", "Say what a model folder or file holds, and whether it is sound");
  auto options = std::make_shared<InspectOptions>();
  command
      .add_option("PATH", options->path,
                  "A model folder, config.json, safetensors file or its index")
      ->type_name("")
      ->required();
  command.add_flag("--json", options->json, "One JSON document on stdout, and nothing else");
  command.footer(
      "Exit code 2 and one line on stderr if what is there is not sound. Reads no weights.\n"
      "\n"
      "Examples:\n"
      "  portolan inspect ~/models/llama-7b\n"
      "  portolan inspect model.safetensors --json");
  command.callback([options] { run_inspect(*options); });
}

}  // namespace portolan
