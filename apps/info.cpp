// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "apps/collective_run.hpp"
#include "apps/commands.hpp"
#include "apps/json_text.hpp"
#include "apps/machine.hpp"
#include "apps/options.hpp"
#include "apps/peaks.hpp"
#include "core/error.hpp"
#include "core/quantization.hpp"
#include "parallel/gather_values.hpp"
#include "runtime/runtime.hpp"
#include "runtime/topology.hpp"
#include "runtime/version.hpp"

namespace portolan {
namespace {

struct InfoRequest {
  CommonOptions common;
  bool peaks = false;
};

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

/// Bytes are told in GB, so without the word.
std::string label_of(std::string name) {
  constexpr std::string_view kBytes = "_bytes";
  if (name.ends_with(kBytes)) name.resize(name.size() - kBytes.size());
  std::ranges::replace(name, '_', ' ');
  return name;
}

std::string text_of(const std::string& name, const nlohmann::ordered_json& value) {
  if (value.is_string()) return value.get<std::string>();
  if (value.is_number() && name.ends_with("_bytes")) {
    return fmt::format("{:.2f} GB", value.get<double>() / 1e9);
  }
  if (value.is_number_float()) return fmt::format("{:.2f}", value.get<double>());
  if (!value.is_structured()) return value.dump();
  std::string text;
  for (const auto& [key, member] : value.items()) {
    if (!text.empty()) text += member.is_object() ? "; " : ", ";
    text += value.is_object() ? label_of(key) + " " + text_of(key, member) : text_of(name, member);
  }
  return text;
}

void print_members(const nlohmann::ordered_json& object, int indent) {
  for (const auto& [name, value] : object.items()) {
    const std::string margin(static_cast<std::size_t>(indent), ' ');
    if (value.is_object()) {
      fmt::print("{}{}\n", margin, label_of(name));
      print_members(value, indent + 2);
    } else {
      fmt::print("{}{:<{}} {}\n", margin, label_of(name), 22 - indent, text_of(name, value));
    }
  }
}

/// Adds what runs on the device; true if this rank is the one that prints.
bool describe_runtime(const InfoRequest& request, nlohmann::ordered_json& info,
                      std::optional<MachinePeaks>& peaks) {
  bool speaks = true;
  run_collectively(runtime_options(request.common), [&](Runtime& runtime) {
    info["runtime"] = runtime.description();
    // These are the build's, and above already.
    for (const auto& [name, value] : info["portolan"].items()) info["runtime"].erase(name);
    info["runtime"]["ranks"] = runtime.world().size();
    info["runtime"]["threads_per_rank"] = runtime.threads();
    info["runtime"]["binding"] = gather_texts(runtime.world(), runtime.binding());
    speaks = runtime.world().rank() == 0;
    if (request.peaks) peaks = measure_peaks(runtime);
  });
  return speaks;
}

void run_info(const InfoRequest& request) {
  // First, because the runtime binds this process and so hides the other cores.
  nlohmann::ordered_json info = describe_machine_and_build();
  std::optional<MachinePeaks> peaks;
  try {
    if (!describe_runtime(request, info, peaks)) return;
  } catch (const UnsupportedError& error) {
    // The build can still be described where it cannot run; what was asked for must be there.
    if (request.common.device == DeviceKind::cuda || request.peaks) throw;
    info["runtime"] = {{"unavailable", error.what()}};
  }
  if (request.common.json) {
    if (peaks) info["peaks"] = to_json(*peaks);
    fmt::print("{}", json_text(info));
  } else {
    info.erase("topology");  // the runtime's says it again
    print_members(info, 0);
    if (peaks) fmt::print("{}", to_text(*peaks));
  }
}

}  // namespace

void add_info_command(CLI::App& application) {
  CLI::App& command =
      *application.add_subcommand("info", "Say what this build and this machine can do");
  const auto request = std::make_shared<InfoRequest>();
  command.add_flag("--peaks", request->peaks,
                   "Also measure large matrix products of each dtype, and reading memory");
  add_run_options(command, request->common);
  add_link_option(command, request->common);
  add_output_options(command, request->common);
  command.footer(
      "Examples:\n"
      "  portolan info\n"
      "  portolan info --json\n"
      "  portolan info --peaks              some seconds\n"
      "  mpirun -n 2 portolan info          with the ranks' transport");
  command.callback([request] { run_info(*request); });
}

}  // namespace portolan
