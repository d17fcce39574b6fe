// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "apps/commands.hpp"
#include "apps/json_text.hpp"
#include "apps/launch.hpp"
#include "apps/mesh_memory.hpp"
#include "apps/options.hpp"
#include "core/error.hpp"
#include "models/meta_checkpoint.hpp"
#include "models/model_plan.hpp"

namespace portolan {
namespace {

using nlohmann::ordered_json;

struct PlanRequest {
  CommonOptions common;
  std::optional<std::string> model;
  std::optional<std::string> preset;
  std::optional<std::int64_t> layers;
  std::optional<std::string> plan_file;
  std::int64_t batch = 1;
  std::optional<std::int64_t> given_length;  ///< --seq-len
  std::int64_t sequence_length = 1024;
};

/// In Hugging Face's layout the config alone will do. Meta's leaves the vocabulary to the weights.
ModelConfig read_config(const std::filesystem::path& folder) {
  if (MetaCheckpoint::is_one(folder)) return MetaCheckpoint(folder).config();
  return read_model_config(folder / "config.json");
}

ModelConfig choose_config(const PlanRequest& request) {
  require(request.model.has_value() != request.preset.has_value(),
          "plan needs either --model or --preset");
  const ModelConfig config =
      request.preset ? preset_config(*request.preset) : read_config(*request.model);
  return config.with_layers(request.layers);
}

Shape shard_shape(const PlannedParameter& parameter, const ShardRange& range) {
  return parameter.shape.rank() == 1 ? Shape{range.rows()} : Shape{range.rows(), range.columns()};
}

/// "[5504, 4096] each", or every rank's shape where they differ.
std::string shard_text(const PlannedParameter& parameter) {
  std::vector<std::string> shapes;
  for (const ShardRange& range : parameter.ranges) {
    shapes.push_back(shard_shape(parameter, range).to_string());
  }
  const bool equal = std::ranges::all_of(
      shapes, [&shapes](const std::string& shape) { return shape == shapes.front(); });
  return equal ? shapes.front() + " each" : fmt::format("{}", fmt::join(shapes, " "));
}

/// Layer 0 stands for all layers, which are alike.
bool is_shown(const ModelPlan& plan, const std::string& name) {
  const ModelOutline& outline = plan.outline();
  return !name.starts_with(outline.layers) || name.starts_with(outline.in_layer(0, ""));
}

std::string shown_name(const ModelPlan& plan, const std::string& name) {
  const std::string first = plan.outline().in_layer(0, "");
  const std::int64_t layers = plan.dimensions().layers;
  if (!name.starts_with(first) || layers == 1) return name;
  return fmt::format("{}0-{}.{}", plan.outline().layers, layers - 1, name.substr(first.size()));
}

/// Of the user's own plan; in the built-in one those of other architectures are always unused.
std::vector<std::string> unused_patterns(const ModelPlan& plan, const PlanRequest& request) {
  return request.plan_file ? plan.parameters().unused_patterns() : std::vector<std::string>();
}

/// Of the matrix products of one forward on a rank.
double product_flops(const ModelPlan& plan, int rank, const PlanRequest& request) {
  double flops = 0.0;
  for (const ProductShape& product : plan.products(rank, request.batch, request.sequence_length)) {
    flops += product.flops();
  }
  return flops;
}

void print_text(const ModelPlan& plan, const PlanRequest& request, DType dtype) {
  const int ranks = plan.layout().mesh.ranks();
  fmt::print("{} layers over {} ranks ({}{}), {}\n\n", plan.dimensions().layers, ranks,
             plan.layout().mesh.to_string(),
             plan.layout().sequence_parallel ? ", sequence parallel" : "", name_of(dtype));
  fmt::print("{:<52} {:<11} {:<16} {:<16} {}\n", "parameter", "style", "along", "whole",
             "per rank");
  for (const PlannedParameter& parameter : plan.parameters().parameters()) {
    if (!is_shown(plan, parameter.name)) continue;
    fmt::print("{:<52} {:<11} {:<16} {:<16} {}\n", shown_name(plan, parameter.name),
               name_of(parameter.style), parameter.axis.empty() ? "-" : parameter.axis,
               parameter.shape.to_string(), shard_text(parameter));
  }
  for (const std::string& pattern : unused_patterns(plan, request)) {
    fmt::print("matches nothing: {}\n", pattern);
  }
  fmt::print("\none forward of {} x {} tokens, all ranks together:\n", request.batch,
             request.sequence_length);
  const ExpectedCommunication expected =
      plan.communication(request.batch, request.sequence_length, dtype);
  bool silent = true;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    if (expected[i].calls == 0) continue;
    silent = false;
    fmt::print("  {:<16} {:>6} calls {:>12.6f} GB\n", name_of(static_cast<Collective>(i)),
               expected[i].calls, static_cast<double>(expected[i].bytes) / 1e9);
  }
  if (silent) fmt::print("  no collective\n");
  fmt::print("\nper rank, GB:   weights   activations   TFLOP of matrix products\n");
  for (int rank = 0; rank < ranks; ++rank) {
    fmt::print("  rank {:<6} {:>10.6f} {:>13.6f} {:>26.6f}\n", rank,
               static_cast<double>(plan.weight_bytes(rank, dtype)) / 1e9,
               static_cast<double>(
                   plan.activation_bytes(rank, request.batch, request.sequence_length, dtype)) /
                   1e9,
               product_flops(plan, rank, request) / 1e12);
  }
}

ordered_json to_json(const ModelPlan& plan, const PlanRequest& request, DType dtype) {
  ordered_json parameters = ordered_json::array();
  for (const PlannedParameter& parameter : plan.parameters().parameters()) {
    ordered_json ranges = ordered_json::array();
    for (const ShardRange& range : parameter.ranges) {
      ranges.push_back({{"rows", {range.row_begin, range.row_end}},
                        {"columns", {range.column_begin, range.column_end}}});
    }
    parameters.push_back(
        {{"name", parameter.name},
         {"shape", std::vector<std::int64_t>(parameter.shape.begin(), parameter.shape.end())},
         {"style", name_of(parameter.style)},
         {"axis", parameter.axis},
         {"ranks", ranges}});
  }
  ordered_json collectives = ordered_json::object();
  const ExpectedCommunication expected =
      plan.communication(request.batch, request.sequence_length, dtype);
  for (std::size_t i = 0; i < expected.size(); ++i) {
    if (expected[i].calls == 0) continue;
    collectives[std::string(name_of(static_cast<Collective>(i)))] = {{"calls", expected[i].calls},
                                                                     {"bytes", expected[i].bytes}};
  }
  ordered_json memory = ordered_json::array();
  ordered_json flops = ordered_json::array();
  for (int rank = 0; rank < plan.layout().mesh.ranks(); ++rank) {
    memory.push_back({{"weights", plan.weight_bytes(rank, dtype)},
                      {"activations", plan.activation_bytes(rank, request.batch,
                                                            request.sequence_length, dtype)}});
    flops.push_back(product_flops(plan, rank, request));
  }
  const MeshShape& mesh = plan.layout().mesh;
  return {{"mesh", {{"data", mesh.data}, {"context", mesh.context}, {"tensor", mesh.tensor}}},
          {"sequence_parallel", plan.layout().sequence_parallel},
          {"dtype", name_of(dtype)},
          {"batch", request.batch},
          {"seq_len", request.sequence_length},
          {"parameters", parameters},
          {"collectives", collectives},
          {"memory_bytes", memory},
          {"product_flops", flops},
          {"unused_patterns", unused_patterns(plan, request)}};
}

void run_plan(PlanRequest request) {
  const ModelConfig config = choose_config(request);
  const std::optional<std::int64_t> longest = outline_of(config).longest_sequence;
  request.sequence_length = request.given_length.value_or(
      std::min(request.sequence_length, longest.value_or(request.sequence_length)));
  require(!longest || request.sequence_length <= *longest,
          "--seq-len {}: the longest sequence of this model has {} tokens", request.sequence_length,
          longest.value_or(0));
  check_forward({request.batch, request.sequence_length});
  const ParallelLayout layout = choose_planned_layout(request.common);
  const DType dtype = request.common.dtype.value_or(config.common().dtype.value_or(DType::f32));
  const ModelPlan plan(
      config, layout, request.plan_file ? read_plan_rules(*request.plan_file) : plan_rules(config));
  if (launched_rank() != 0) return;  // no rank knows more than the first
  if (request.common.json) {
    fmt::print("{}", json_text(to_json(plan, request, dtype)));
  } else {
    print_text(plan, request, dtype);
  }
}

}  // namespace

void add_plan_command(CLI::App& application) {
  CLI::App* command = application.add_subcommand(
      "plan", "Show how a mesh of ranks would share a model: shards, collectives, memory");
  const auto request = std::make_shared<PlanRequest>();
  command
      ->add_option("--model", request->model,
                   "Folder of the model; of Hugging Face's layout its config.json will do")
      ->type_name("DIR");
  command->add_option("--preset", request->preset, "A built-in config, e.g. llama-7b")
      ->type_name("NAME");
  command->add_option("--layers", request->layers, "Another number of layers")->type_name("N");
  command
      ->add_option("--plan", request->plan_file,
                   "JSON file {\"rules\": [{\"pattern\", \"style\", \"axis\"}]} in place of the "
                   "built-in plan")
      ->type_name("FILE");
  command->add_option("--batch", request->batch, "Sequences of the forward (default 1)")
      ->type_name("N");
  command
      ->add_option("--seq-len", request->given_length,
                   "Tokens of each (default 1024, or the longest)")
      ->type_name("N");
  add_planned_mesh_options(*command, request->common);
  add_output_options(*command, request->common);
  command->footer(
      "Examples:\n"
      "  portolan plan --preset llama-7b --tp 2 --sequence-parallel\n"
      "  portolan plan --model DIR --parallel ring --ranks 4\n"
      "  portolan plan --preset llama-3-8b --tp 3 --cp 2 --seq-len 6998 --dtype bf16 --json");
  command->callback([request] { run_plan(*request); });
}

}  // namespace portolan
