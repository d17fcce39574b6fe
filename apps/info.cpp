// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <CLI/CLI.hpp>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "apps/collective_run.hpp"
#include "apps/commands.hpp"
#include "apps/machine.hpp"
#include "apps/options.hpp"
#include "core/error.hpp"
#include "core/quantization.hpp"
#include "parallel/gather_values.hpp"
#include "runtime/runtime.hpp"
#include "runtime/topology.hpp"
#include "runtime/version.hpp"

namespace portolan {
namespace {

nlohmann::ordered_json describe_machine_and_build() {
  const Machine machine = describe_machine();
  const nlohmann::ordered_json topology = Topology::detect().to_json();
  const BuildInformation build = build_information();
  nlohmann::ordered_json info;
  info["portolan"] = to_json(build);
  info["devices"] = build.devices;
  info["quantization"] = {name_of(Quantization::int8), name_of(Quantization::int4)};
  info["libraries"] = build.libraries;
  info["machine"] = to_json(machine);
  info["topology"] = topology;
  return info;
}

void print_members(const nlohmann::ordered_json& object, int indent) {
  for (const auto& [name, value] : object.items()) {
    std::string label = name;
    for (char& c : label) {
      if (c == '_') c = ' ';
    }
    const std::string margin(static_cast<std::size_t>(indent), ' ');
    if (value.is_object()) {
      fmt::print("{}{}\n", margin, label);
      print_members(value, indent + 2);
      continue;
    }
    std::string text;
    if (value.is_array()) {
      for (const auto& item : value) {
        text += text.empty() ? "" : ", ";
        text += item.is_string() ? item.get<std::string>() : item.dump();
      }
    } else {
      text = value.is_string() ? value.get<std::string>() : value.dump();
    }
    fmt::print("{}{:<{}} {}\n", margin, label, 22 - indent, text);
  }
}

/// Adds what runs on the device; true if this rank is the one that prints.
bool describe_runtime(const CommonOptions& options, nlohmann::ordered_json& info) {
  bool speaks = true;
  run_collectively(runtime_options(options), [&](Runtime& runtime) {
    info["runtime"] = runtime.description();
    // These are the build's, and above already.
    for (const auto& [name, value] : info["portolan"].items()) info["runtime"].erase(name);
    info["runtime"]["ranks"] = runtime.world().size();
    info["runtime"]["threads_per_rank"] = runtime.threads();
    info["runtime"]["binding"] = gather_texts(runtime.world(), runtime.binding());
    speaks = runtime.world().rank() == 0;
  });
  return speaks;
}

void run_info(const CommonOptions& options) {
  // First, because the runtime binds this process and so hides the other cores.
  nlohmann::ordered_json info = describe_machine_and_build();
  try {
    if (!describe_runtime(options, info)) return;
  } catch (const UnsupportedError& error) {
    // The build can still be described where it cannot run; a GPU that was asked for must be there.
    if (options.device == DeviceKind::cuda) throw;
    info["runtime"] = {{"unavailable", error.what()}};
  }
  if (options.json) {
    fmt::print("{}\n", info.dump(2));
  } else {
    info.erase("topology");  // the machine's and the runtime's lines say it in short
    print_members(info, 0);
  }
}

}  // namespace

void add_info_command(CLI::App& application) {
  CLI::App& command =
      *application.add_subcommand("info", "Say what this build and this machine can do");
  auto options = std::make_shared<CommonOptions>();
  add_run_options(command, *options);
  add_link_option(command, *options);
  add_output_options(command, *options);
  command.footer(
      "Examples:\n"
      "  portolan info\n"
      "  portolan info --json\n"
      "  mpirun -n 2 portolan info          with the ranks' transport");
  command.callback([options] { run_info(*options); });
}

}  // namespace portolan
