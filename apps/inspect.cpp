// SPDX-License-Identifier: Apache-2.0
#include "models/inspect.hpp"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>
#include <string>

#include "apps/commands.hpp"
#include "apps/json_text.hpp"
#include "apps/launch.hpp"
#include "apps/mesh_memory.hpp"
#include "apps/options.hpp"
#include "core/error.hpp"

namespace portolan {
namespace {

struct InspectOptions {
  std::string path;
  CommonOptions common;
  std::optional<std::int64_t> batch;
  std::optional<std::int64_t> sequence_length;
};

std::optional<ForwardSize> forward_of(const InspectOptions& options) {
  require(options.sequence_length || !options.batch, "--batch needs --seq-len");
  if (!options.sequence_length) return std::nullopt;
  const ForwardSize size{options.batch.value_or(1), *options.sequence_length};
  check_forward(size);
  return size;
}

bool asks_for_memory(const InspectOptions& options) {
  const CommonOptions& mesh = options.common;
  return mesh.parallel || mesh.tensor_parallel || mesh.context_parallel || mesh.dtype ||
         mesh.sequence_parallel || mesh.planned_ranks || options.batch || options.sequence_length;
}

MeshMemory memory_of(const InspectReport& report, const InspectOptions& options) {
  require(report.config.has_value(),
          "{} holds no model, so what ranks would hold of it cannot be told", options.path);
  const ParallelLayout layout = choose_planned_layout(options.common);
  const DType dtype =
      options.common.dtype.value_or(report.config->common().dtype.value_or(DType::f32));
  return memory_of_mesh(ModelPlan(*report.config, layout), dtype, forward_of(options));
}

void run_inspect(const InspectOptions& options) {
  InspectReport report = inspect(options.path);
  std::string memory_table;
  if (asks_for_memory(options)) {
    const MeshMemory memory = memory_of(report, options);
    if (options.common.json) {
      report.json["memory"] = to_json(memory);
    } else {
      memory_table = to_text(memory);
    }
  }
  if (launched_rank() != 0) return;  // no rank knows more than the first
  fmt::print("{}{}", options.common.json ? json_text(report.json) : report.text(), memory_table);
}

}  // namespace

void add_inspect_command(CLI::App& application) {
  CLI::App& command = *application.add_subcommand(
      "inspect", "Say what a model folder or file holds, and whether it is sound");
  auto options = std::make_shared<InspectOptions>();
  command
      .add_option(
          "PATH", options->path,
          "A model folder, config.json or params.json, tokenizer, safetensors or torch.save "
          "file, or an index")
      ->type_name("")
      ->required();
  add_planned_mesh_options(command, options->common);
  command.add_option("--batch", options->batch, "Sequences of a forward (default 1)")
      ->type_name("N");
  command
      .add_option("--seq-len", options->sequence_length,
                  "Tokens of each: also says what activations take")
      ->type_name("N");
  add_output_options(command, options->common);
  command.footer(
      "Exit code 2 and one line on stderr if what is there is not sound. Reads no weights. With a\n"
      "mesh, --dtype or --seq-len it also says what each rank would hold, by arithmetic alone.\n"
      "\n"
      "Examples:\n"
      "  portolan inspect ~/models/llama-7b\n"
      "  portolan inspect ~/models/llama-7b --parallel sp --ranks 4 --batch 2 --seq-len 1024\n"
      "  portolan inspect ~/models/llama-7b --tp 2 --cp 2 --dtype bf16 --json\n"
      "  portolan inspect model.safetensors --json\n"
      "  portolan inspect consolidated.00.pth");
  command.callback([options] { run_inspect(*options); });
}

}  // namespace portolan
