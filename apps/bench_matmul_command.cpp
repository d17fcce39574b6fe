// SPDX-License-Identifier: Apache-2.0
#include "apps/bench_matmul_command.hpp"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "apps/benchmark_record.hpp"
#include "apps/benchmark_samples.hpp"
#include "apps/collective_run.hpp"
#include "apps/comparison_table.hpp"
#include "apps/machine.hpp"
#include "apps/matmul_benchmark.hpp"
#include "apps/options.hpp"
#include "core/error.hpp"
#include "core/printable.hpp"
#include "models/model_plan.hpp"

namespace portolan {
namespace {

/// The bytes of all operands still fit 63 bits.
constexpr std::int64_t kMostRows = std::int64_t{1} << 24;
constexpr std::int64_t kMostFeatures = kMaximumVocabSize;

struct Request {
  CommonOptions common;
  std::vector<MatmulCase> shapes;  ///< empty: those of the preset
  std::string preset = "llama-1b";
  std::vector<std::int64_t> rows{1, 512};
  std::vector<DType> dtypes{DType::f32, DType::bf16};
  std::vector<Quantization> quantizations{Quantization::none};
  SampleLimits limits;
  std::optional<std::string> out;
};

/// "128x4096x11008": rows, outputs, inputs.
MatmulCase parse_shape(const std::string& text) {
  constexpr const char* kOption = "--shapes";
  const std::size_t first = text.find('x');
  const std::size_t second = first == std::string::npos ? first : text.find('x', first + 1);
  require(second != std::string::npos,
          "--shapes: '{}' is not ROWSxOUTPUTSxINPUTS, as in 128x4096x11008", printable(text));
  MatmulCase shape;
  shape.rows = parse_integer(kOption, text.substr(0, first), 1, kMostRows);
  shape.outputs =
      parse_integer(kOption, text.substr(first + 1, second - first - 1), 1, kMostFeatures);
  shape.inputs = parse_integer(kOption, text.substr(second + 1), 1, kMostFeatures);
  return shape;
}

/// Of one forward on one rank.
std::vector<MatmulCase> preset_shapes(const Request& request) {
  const ModelPlan plan(preset_config(request.preset), ParallelLayout());
  std::vector<MatmulCase> shapes;
  for (const std::int64_t rows : request.rows) {
    for (const ProductShape& product : plan.products(0, 1, rows)) {
      shapes.push_back(
          {.name = product.name, .rows = product.m, .outputs = product.n, .inputs = product.k});
    }
  }
  return shapes;
}

std::vector<MatmulCase> cases_of(const Request& request) {
  const std::vector<MatmulCase> shapes =
      request.shapes.empty() ? preset_shapes(request) : request.shapes;
  std::vector<MatmulCase> cases;
  for (const DType dtype : request.dtypes) {
    for (const Quantization quantization : request.quantizations) {
      for (MatmulCase item : shapes) {
        item.dtype = dtype;
        item.quantization = quantization;
        item.seed = request.common.seed;
        cases.push_back(item);
      }
    }
  }
  return cases;
}

std::string table_header() {
  return "product          dtype  weights    rows  outputs  inputs    min ms  median ms    p80 ms  "
         "peak MB   GFLOP/s  GB/s read  limit   of limit  max error";
}

std::string table_line(const MatmulRow& row) {
  const MatmulCase& s = row.setting;
  const std::string start = fmt::format(
      "{:<15}  {:<5}  {:<7}  {:>6}  {:>7}  {:>6}  ", s.name.empty() ? "-" : s.name,
      name_of(s.dtype), weights_text(s.dtype, s.quantization), s.rows, s.outputs, s.inputs);
  if (!row.refusal.empty()) return start + row.refusal;
  const SampleSummary seconds = summary_of(row.samples_s);
  return start + fmt::format("{:>8}  {:>9}  {:>8}  {:>7}  {:>8}  {:>9}  {:<6}  {:>8}  {:>9}",
                             number_text(1e3 * seconds.minimum), number_text(1e3 * seconds.median),
                             number_text(1e3 * seconds.percentile80),
                             number_text(1e-6 * static_cast<double>(row.peak_bytes)),
                             number_text(1e-9 * row.flop_rate()),
                             number_text(1e-9 * row.weight_rate()), row.limit(),
                             percent_text(row.limit_share()), number_text(row.max_error));
}

std::string csv(const std::vector<MatmulRow>& rows) {
  std::string text = fmt::format(
      "product,dtype,quantize,rows,outputs,inputs,ranks,{},weight_bytes,peak_bytes,flop_per_s,"
      "weight_bytes_per_s,large_product_flop_per_s,read_bytes_per_s,limit,limit_share,max_error,"
      "refusal\n",
      kTimesCsvHeader);
  for (const MatmulRow& row : rows) {
    const MatmulCase& s = row.setting;
    text += fmt::format("{},{},{},{},{},{},{},", s.name, name_of(s.dtype), name_of(s.quantization),
                        s.rows, s.outputs, s.inputs, row.ranks);
    if (row.refusal.empty()) {
      text += fmt::format("{},{},{},{},{},{},{},{},{},{},\n", times_csv(row.samples_s),
                          row.weight_bytes, row.peak_bytes, row.flop_rate(), row.weight_rate(),
                          row.product_rate, row.read_rate, row.limit(), row.limit_share(),
                          row.max_error);
    } else {
      text += fmt::format("0,,,,,,,,,,,,,{}\n", csv_quoted(row.refusal));
    }
  }
  return text;
}

nlohmann::ordered_json rows_json(const std::vector<MatmulRow>& rows) {
  nlohmann::ordered_json array = nlohmann::ordered_json::array();
  for (const MatmulRow& row : rows) {
    const MatmulCase& s = row.setting;
    nlohmann::ordered_json item{
        {"product", s.name}, {"dtype", name_of(s.dtype)}, {"quantize", name_of(s.quantization)},
        {"rows", s.rows},    {"outputs", s.outputs},      {"inputs", s.inputs}};
    if (row.refusal.empty()) {
      item["time_s"] = times_json(row.samples_s);
      item["weight_bytes"] = row.weight_bytes;
      item["peak_bytes"] = row.peak_bytes;
      item["flop_per_s"] = row.flop_rate();
      item["weight_bytes_per_s"] = row.weight_rate();
      item["large_product_flop_per_s"] = row.product_rate;
      item["read_bytes_per_s"] = row.read_rate;
      item["limit"] = row.limit();
      item["limit_share"] = row.limit_share();
      item["max_error"] = row.max_error;
    } else {
      item["refusal"] = row.refusal;
    }
    array.push_back(std::move(item));
  }
  return array;
}

std::vector<MatmulRow> measure_all(const Request& request, const std::vector<MatmulCase>& cases,
                                   const Runtime& runtime, bool prints_rows) {
  const MemoryRead memory(runtime.device(), runtime.world().size());
  std::optional<MatrixProduct> product;
  std::optional<DType> product_dtype;
  std::vector<MatmulRow> rows;
  for (const MatmulCase& setting : cases) {
    if (product_dtype != setting.dtype) {
      product.emplace(setting.dtype, runtime.device());
      product_dtype = setting.dtype;
    }
    rows.push_back(measure_matmul(setting, request.limits, *product, memory, runtime));
    if (!prints_rows) continue;
    fmt::print("{}\n", table_line(rows.back()));
    std::fflush(stdout);
  }
  return rows;
}

void run(const Request& request) {
  const Machine machine = describe_machine();
  const std::vector<MatmulCase> cases = cases_of(request);
  run_collectively(runtime_options(request.common), [&](Runtime& runtime) {
    const bool is_root = runtime.world().rank() == 0;
    const bool prints_rows = is_root && !request.common.json;
    prepare_record(runtime.world(), request.out);
    if (prints_rows) {
      fmt::print("{}{}\n{}\n", team_text(runtime),
                 runtime.world().size() > 1 ? ", each on its own operands; rates of all" : "",
                 table_header());
    }
    const std::vector<MatmulRow> rows = measure_all(request, cases, runtime, prints_rows);
    if (is_root) {
      publish("matmul",
              {{"environment", environment_of(machine, runtime, request.common)},
               {"rows", rows_json(rows)}},
              csv(rows), request.out, request.common.json);
    }
    runtime.world().barrier();
  });
}

void add_choice_options(CLI::App& command, Request& request) {
  add_text_option(command, "--shapes", "Rows, outputs and inputs (default: the preset's products)",
                  "RxOxI,...", [&request](const std::string& text) {
                    for (const std::string& item : parse_list("--shapes", text)) {
                      request.shapes.push_back(parse_shape(item));
                    }
                  });
  add_text_option(command, "--preset", fmt::format("Model shape (default {})", request.preset),
                  "NAME", [&request](const std::string& text) { request.preset = text; });
  add_text_option(command, "--rows", "Rows of the preset's products (default 1,512)", "A,B,C",
                  [&request](const std::string& text) {
                    request.rows = parse_integers("--rows", text, kMostRows);
                  });
  add_dtypes_option(command, request.dtypes);
  add_quantizations_option(command, request.quantizations);
  add_sample_options(command, request.limits);
  add_text_option(command, "--out", "Where matmul.csv and matmul.json go, created if need be",
                  "DIR", [&request](const std::string& text) { request.out = text; });
}

}  // namespace

void add_bench_matmul_command(CLI::App& bench) {
  CLI::App* command =
      bench.add_subcommand("matmul", "Time, rates and error of the products of linear layers");
  const auto request = std::make_shared<Request>();
  add_choice_options(*command, *request);
  add_device_options(*command, request->common);
  add_output_options(*command, request->common);
  command->footer(
      "By packed weights, which come from memory each time; several ranks multiply at once.\n"
      "'GB/s read' are the weights. 'of limit' is the longer one of the FLOPs at the rate of a\n"
      "large product of the dtype and of one pass over as much memory as the weights take, both\n"
      "between the samples, over the product's own time. Error: of sampled outputs, which have a\n"
      "variance of 1, against f64 and the weights before they became integers.\n"
      "Examples:\n"
      "  portolan bench matmul\n"
      "  portolan bench matmul --preset llama-7b --rows 1,16,256 --dtypes bf16 --quantize "
      "none,int8,int4\n"
      "  mpirun -n 2 portolan bench matmul --shapes 512x5504x4096 --out results");
  command->callback([request, command] {
    if (!request->shapes.empty()) {
      refuse_options(*command, {"--preset", "--rows"}, "--shapes gives all sizes");
    }
    run(*request);
  });
}

}  // namespace portolan
