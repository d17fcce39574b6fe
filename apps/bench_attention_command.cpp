// SPDX-License-Identifier: Apache-2.0
#include "apps/bench_attention_command.hpp"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <type_traits>
#include <utility>

#include "apps/bench_attention_tune.hpp"
#include "apps/collective_run.hpp"
#include "apps/json_text.hpp"
#include "apps/machine.hpp"
#include "apps/options.hpp"
#include "apps/output_file.hpp"
#include "core/error.hpp"

namespace portolan {
namespace {

constexpr std::int64_t kMostTokens = std::int64_t{1} << 24;
constexpr std::int64_t kMostHeads = std::int64_t{1} << 16;

struct Request {
  CommonOptions common;
  std::vector<AttentionMethod> methods{AttentionMethod::standard, AttentionMethod::memory_efficient,
                                       AttentionMethod::flash, AttentionMethod::window,
                                       AttentionMethod::block_sparse};
  std::vector<std::int64_t> head_dims{64};
  std::vector<std::int64_t> lengths{256, 512, 1024, 2048};
  std::vector<DType> dtypes{DType::f32};
  std::vector<AttentionPass> passes{AttentionPass::forward, AttentionPass::backward};
  AttentionBenchmarkCase shape{.heads = 4, .key_heads = 0};  ///< key_heads 0: as many as heads
  AttentionBenchmarkLimits limits;
  std::optional<double> memory_limit_gb;
  std::optional<std::string> out;
  std::optional<std::string> tune;
};

std::vector<AttentionBenchmarkCase> cases_of(const Request& request) {
  std::vector<AttentionBenchmarkCase> cases;
  for (const DType dtype : request.dtypes) {
    for (const AttentionPass pass : request.passes) {
      for (const std::int64_t head_dim : request.head_dims) {
        for (const std::int64_t length : request.lengths) {
          for (const AttentionMethod method : request.methods) {
            AttentionBenchmarkCase item = request.shape;
            item.method = method;
            item.pass = pass;
            item.dtype = dtype;
            item.head_dim = head_dim;
            item.length = length;
            item.seed = request.common.seed;
            cases.push_back(item);
          }
        }
      }
    }
  }
  return cases;
}

std::vector<AttentionBenchmarkRow> measure_all(const Request& request, Runtime& runtime) {
  static_cast<void>(choose_layout(request.common, runtime.world().size()));  // one rank only
  if (!request.common.json) fmt::print("{}\n", attention_table_header());
  std::vector<AttentionBenchmarkRow> rows;
  std::optional<MatrixProduct> product;
  std::optional<DType> product_dtype;
  for (const AttentionBenchmarkCase& item : cases_of(request)) {
    if (product_dtype != item.dtype) {
      product.emplace(item.dtype, runtime.device());
      product_dtype = item.dtype;
    }
    rows.push_back(measure_attention(item, request.limits, *product, runtime.device()));
    if (request.common.json) continue;
    fmt::print("{}\n", attention_table_line(rows.back()));
    std::fflush(stdout);  // rows take seconds each
  }
  return rows;
}

void write_files(const std::filesystem::path& folder, const std::string& document,
                 const std::vector<AttentionBenchmarkRow>& rows, const Gnuplot& gnuplot) {
  write_file(folder / "attention.json", document);
  write_file(folder / "attention.csv", attention_csv(rows));
  for (const auto& [name, figure] : attention_figures(rows, gnuplot)) {
    write_file(folder / (name + ".svg"), figure.svg + "\n");
  }
}

void tune(const Request& request) {
  tune_attention({.common = request.common,
                  .dtypes = request.dtypes,
                  .head_dims = request.head_dims,
                  .lengths = request.lengths,
                  .shape = request.shape,
                  .rounds = request.limits.samples.repeat,
                  .file = *request.tune});
}

void run(Request& request) {
  if (request.shape.key_heads == 0) request.shape.key_heads = request.shape.heads;
  require(request.shape.heads % request.shape.key_heads == 0,
          "--heads {} must be a multiple of --kv-heads {}", request.shape.heads,
          request.shape.key_heads);
  if (request.tune) {
    tune(request);
    return;
  }
  const Machine machine = describe_machine();
  request.limits.memory_bytes =
      request.memory_limit_gb ? static_cast<std::int64_t>(1e9 * *request.memory_limit_gb)
      : request.common.device == DeviceKind::cuda
          ? std::numeric_limits<std::int64_t>::max()  // the device itself refuses
          : static_cast<std::int64_t>(machine.memory_bytes);
  std::optional<Gnuplot> gnuplot;
  if (request.out) {
    gnuplot.emplace();
    prepare_output_folder(*request.out);
  }
  std::vector<AttentionBenchmarkRow> rows;
  nlohmann::ordered_json document{{"environment", {{"machine", to_json(machine)}}}};
  run_collectively(runtime_options(request.common), [&](Runtime& runtime) {
    rows = measure_all(request, runtime);
    document["environment"]["runtime"] = runtime.description();
    document["environment"]["threads"] = runtime.threads();
    document["environment"]["seed"] = request.common.seed;
  });
  document["rows"] = attention_json(rows);
  const std::string text = json_text(document);
  if (request.out) write_files(*request.out, text, rows, *gnuplot);
  if (request.common.json) {
    fmt::print("{}", text);
  } else if (request.out) {
    fmt::print("wrote {}/attention.csv, attention.json and plots\n", *request.out);
  }
}

using Text = std::string;

void add_choice_options(CLI::App& command, Request& request) {
  const auto add = [&command](const Text& name, const Text& help, const Text& value,
                              const std::function<void(const Text&)>& store) {
    add_text_option(command, name, help, value, store);
  };
  add("--methods", "Of standard, memory-efficient, flash, window, block-sparse (default all)",
      "A,B,C", [&request](const Text& text) {
        request.methods.clear();
        for (const Text& name :
             parse_names("--methods", text,
                         {"standard", "memory-efficient", "flash", "window", "block-sparse"})) {
          request.methods.push_back(attention_method_from_name(name));
        }
      });
  add("--head-dims", "Default 64", "A,B,C", [&request](const Text& text) {
    request.head_dims = parse_integers("--head-dims", text, kMaximumAttentionHeadDim);
  });
  add("--lengths", "Tokens (default 256,512,1024,2048)", "A,B,C", [&request](const Text& text) {
    request.lengths = parse_integers("--lengths", text, kMostTokens);
  });
  add_dtypes_option(command, request.dtypes);
  add("--passes", "Of forward, backward (default both)", "A,B", [&request](const Text& text) {
    request.passes.clear();
    for (const Text& name : parse_names("--passes", text, {"forward", "backward"})) {
      request.passes.push_back(name == "forward" ? AttentionPass::forward
                                                 : AttentionPass::backward);
    }
  });
}

void add_number_options(CLI::App& command, Request& request) {
  const auto add = [&command](const Text& name, const Text& help, std::int64_t maximum,
                              auto* value) {
    add_text_option(command, name, help, "N", [name, maximum, value](const Text& text) {
      *value = static_cast<std::remove_pointer_t<decltype(value)>>(
          parse_integer(name, text, 1, maximum));
    });
  };
  add("--batch", "Sequences (default 1)", kMostHeads, &request.shape.batch);
  add("--heads", "Query heads (default 4)", kMostHeads, &request.shape.heads);
  add("--kv-heads", "Key/value heads (default: as many)", kMostHeads, &request.shape.key_heads);
  add("--window", "Of the window method (default 256)", kMostTokens, &request.shape.window);
  add("--block", "Rows and columns of a block of block-sparse (default 64)", kMostTokens,
      &request.shape.block);
  add_sample_options(command, request.limits.samples);
  add_text_option(
      command, "--memory-limit",
      "GB; a kernel that wants more scratch is out of memory (default: the machine's memory)", "GB",
      [&request](const Text& text) {
        request.memory_limit_gb = parse_positive_number("--memory-limit", text);
      });
}

void add_result_options(CLI::App& command, Request& request) {
  add_text_option(command, "--out",
                  "Where attention.csv, attention.json and plots go, created if need be", "DIR",
                  [&request](const Text& text) { request.out = text; });
  add_text_option(
      command, "--tune",
      "Instead: measure the tile sizes of method flash for each dtype and head_dim, in --repeat "
      "rounds over all lengths, and write the best to a file for --attention-tiles",
      "FILE", [&request](const Text& text) { request.tune = text; });
}

}  // namespace

void add_bench_attention_command(CLI::App& bench) {
  CLI::App* command =
      bench.add_subcommand("attention", "Time, memory, rate and error of attention's kernels");
  const auto request = std::make_shared<Request>();
  add_choice_options(*command, *request);
  add_number_options(*command, *request);
  add_run_options(*command, request->common);
  add_result_options(*command, *request);
  add_output_options(*command, request->common);
  command->footer(
      "Causal self-attention of random operands. Rates count the scores that the mask leaves; 'of "
      "GEMM'\nis the share of the rate of a large matrix product that runs between the samples.\n"
      "Examples:\n"
      "  portolan bench attention\n"
      "  portolan bench attention --head-dims 16,32,64,128 --lengths 256,1024,4096,16384 --dtypes "
      "f32,bf16 --out results\n"
      "  portolan bench attention --tune tiles.json --head-dims 64,128 --dtypes f32,bf16 --heads "
      "32");
  command->callback([request, command] {
    if (request->tune) {
      refuse_options(*command,
                     {"--methods", "--passes", "--window", "--block", "--seconds", "--memory-limit",
                      "--out", "--attention-tiles"},
                     "has no effect on --tune, which measures tile sizes of method flash alone");
    }
    run(*request);
  });
}

}  // namespace portolan
