// SPDX-License-Identifier: Apache-2.0
#include "models/inspect.hpp"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>
#include <string>

#include "apps/commands.hpp"
#include "apps/options.hpp"
#include "core/error.hpp"
#include "models/llama_plan.hpp"

namespace portolan {
namespace {

struct InspectOptions {
  std::string path;
  CommonOptions common;
};

/// What each rank of a mesh would hold of the model.
nlohmann::ordered_json memory_of_mesh(const ModelConfig& config, const CommonOptions& options) {
  const int ranks = options.tensor_parallel.value_or(1) * options.context_parallel.value_or(1);
  const LlamaPlan plan(config.llama(), choose_layout(options, ranks));
  const DType dtype = options.dtype.value_or(config.common().dtype.value_or(DType::f32));
  std::vector<std::int64_t> weights;
  for (int rank = 0; rank < ranks; ++rank) weights.push_back(plan.weight_bytes(rank, dtype));
  const std::string mesh = plan.layout().mesh.to_string();
  return {{"mesh", mesh.empty() ? "one rank" : mesh},
          {"dtype", name_of(dtype)},
          {"weight_bytes_per_rank", weights}};
}

void run_inspect(const InspectOptions& options) {
  require(!options.common.parallel, "inspect starts no ranks: give the mesh by --tp and --cp");
  InspectReport report = inspect(options.path);
  const bool asked =
      options.common.tensor_parallel || options.common.context_parallel || options.common.dtype;
  require(!asked || report.config,
          "--tp, --cp and --dtype ask how ranks would share a model, but {} holds none",
          options.path);
  if (asked) report.json["memory"] = memory_of_mesh(*report.config, options.common);
  fmt::print("{}", options.common.json ? report.json.dump(2) + "\n" : report.text());
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
  add_mesh_options(command, options->common);
  add_output_options(command, options->common);
  command.footer(
      "Exit code 2 and one line on stderr if what is there is not sound. Reads no weights. With "
      "--tp,\n"
      "--cp or --dtype also says what each rank would hold.\n"
      "\n"
      "Examples:\n"
      "  portolan inspect ~/models/llama-7b\n"
      "  portolan inspect ~/models/llama-7b --tp 4 --dtype bf16\n"
      "  portolan inspect model.safetensors --json");
  command.callback([options] { run_inspect(*options); });
}

}  // namespace portolan
