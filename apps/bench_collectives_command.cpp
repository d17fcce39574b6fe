// SPDX-License-Identifier: Apache-2.0
#include "apps/bench_collectives_command.hpp"

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
#include "apps/collectives_benchmark.hpp"
#include "apps/comparison_table.hpp"
#include "apps/machine.hpp"
#include "apps/options.hpp"
#include "core/error.hpp"

namespace portolan {
namespace {

struct Request {
  CommonOptions common;
  std::vector<Collective> collectives{Collective::all_reduce, Collective::reduce_scatter,
                                      Collective::all_gather, Collective::broadcast,
                                      Collective::ring_shift};
  std::vector<std::int64_t> sizes{8192, 1 << 20, 32 << 20};
  std::vector<DType> dtypes{DType::f32};
  SampleLimits limits{.repeat = 21};
  std::optional<std::string> out;
};

std::vector<CollectiveCase> cases_of(const Request& request) {
  std::vector<CollectiveCase> cases;
  for (const DType dtype : request.dtypes) {
    for (const Collective collective : request.collectives) {
      for (const std::int64_t bytes : request.sizes) {
        cases.push_back({collective, dtype, bytes, request.common.seed});
      }
    }
  }
  return cases;
}

std::string table_header() {
  return "collective      dtype       bytes    min us  median us    p80 us  peak MB  algbw GB/s  "
         "busbw GB/s  limit   of limit  max error";
}

std::string table_line(const CollectiveRow& row) {
  const std::string start = fmt::format("{:<14}  {:<5}  {:>10}  ", name_of(row.setting.collective),
                                        name_of(row.setting.dtype), row.setting.bytes);
  if (!row.refusal.empty()) return start + row.refusal;
  const SampleSummary seconds = summary_of(row.samples_s);
  return start + fmt::format("{:>8}  {:>9}  {:>8}  {:>7}  {:>10}  {:>10}  {:<6}  {:>8}  {:>9}",
                             number_text(1e6 * seconds.minimum), number_text(1e6 * seconds.median),
                             number_text(1e6 * seconds.percentile80),
                             number_text(1e-6 * static_cast<double>(row.peak_bytes)),
                             number_text(1e-9 * row.rate()), number_text(1e-9 * row.bus_rate()),
                             row.limit(), percent_text(row.limit_share()),
                             number_text(row.max_error));
}

std::string csv(const std::vector<CollectiveRow>& rows) {
  std::string text = fmt::format(
      "collective,dtype,bytes,ranks,{},calls_per_sample,communicated_bytes,peak_bytes,"
      "algorithm_bytes_per_s,bus_bytes_per_s,limit,limit_s,limit_share,max_error,refusal\n",
      kTimesCsvHeader);
  for (const CollectiveRow& row : rows) {
    text += fmt::format("{},{},{},{},", name_of(row.setting.collective), name_of(row.setting.dtype),
                        row.setting.bytes, row.ranks);
    if (row.refusal.empty()) {
      text +=
          fmt::format("{},{},{},{},{},{},{},{},{},{},\n", times_csv(row.samples_s),
                      row.calls_per_sample, row.communicated_bytes, row.peak_bytes, row.rate(),
                      row.bus_rate(), row.limit(), row.limit_s(), row.limit_share(), row.max_error);
    } else {
      text += fmt::format("0,,,,,,,,,,,,,{}\n", csv_quoted(row.refusal));
    }
  }
  return text;
}

nlohmann::ordered_json rows_json(const std::vector<CollectiveRow>& rows) {
  nlohmann::ordered_json array = nlohmann::ordered_json::array();
  for (const CollectiveRow& row : rows) {
    nlohmann::ordered_json item{{"collective", name_of(row.setting.collective)},
                                {"dtype", name_of(row.setting.dtype)},
                                {"bytes", row.setting.bytes}};
    if (row.refusal.empty()) {
      item["time_s"] = times_json(row.samples_s);
      item["calls_per_sample"] = row.calls_per_sample;
      item["communicated_bytes"] = row.communicated_bytes;
      item["peak_bytes"] = row.peak_bytes;
      item["algorithm_bytes_per_s"] = row.rate();
      item["bus_bytes_per_s"] = row.bus_rate();
      item["limit"] = row.limit();
      item["limit_s"] = row.limit_s();
      item["limit_share"] = row.limit_share();
      item["max_error"] = row.max_error;
    } else {
      item["refusal"] = row.refusal;
    }
    array.push_back(std::move(item));
  }
  return array;
}

void run(const Request& request) {
  const Machine machine = describe_machine();
  run_collectively(runtime_options(request.common), [&](Runtime& runtime) {
    require(runtime.world().size() > 1,
            "bench collectives needs several ranks: mpirun -n 2 portolan bench collectives");
    const bool is_root = runtime.world().rank() == 0;
    const bool prints_rows = is_root && !request.common.json;
    prepare_record(runtime.world(), request.out);
    if (prints_rows) {
      fmt::print("{}, {}{}{}\n{}\n", team_text(runtime), runtime.world().description(),
                 request.common.link.active() ? ", as on " : "", request.common.link.to_string(),
                 table_header());
    }
    std::vector<CollectiveRow> rows;
    for (const CollectiveCase& setting : cases_of(request)) {
      rows.push_back(measure_collective(setting, request.limits, runtime));
      if (!prints_rows) continue;
      fmt::print("{}\n", table_line(rows.back()));
      std::fflush(stdout);
    }
    if (is_root) {
      publish("collectives",
              {{"environment", environment_of(machine, runtime, request.common)},
               {"rows", rows_json(rows)}},
              csv(rows), request.out, request.common.json);
    }
    runtime.world().barrier();
  });
}

void add_choice_options(CLI::App& command, Request& request) {
  add_text_option(
      command, "--collectives",
      "Of all_reduce, reduce_scatter, all_gather, broadcast, ring_shift (default all)", "A,B,C",
      [&request](const std::string& text) {
        const std::vector<Collective> known = Request().collectives;
        request.collectives.clear();
        for (const std::string& name : parse_names(
                 "--collectives", text,
                 {"all_reduce", "reduce_scatter", "all_gather", "broadcast", "ring_shift"})) {
          for (const Collective collective : known) {
            if (name == name_of(collective)) request.collectives.push_back(collective);
          }
        }
      });
  add_text_option(
      command, "--sizes",
      "Bytes of the whole tensor, or as in 8kB, 1MB (default 8192,1048576,33554432)", "A,B,C",
      [&request](const std::string& text) {
        request.sizes.clear();
        for (const std::string& item : parse_list("--sizes", text)) {
          request.sizes.push_back(static_cast<std::int64_t>(parse_byte_count("--sizes", item)));
        }
      });
  add_dtypes_option(command, request.dtypes);
  add_sample_options(command, request.limits);
  add_text_option(command, "--out",
                  "Where collectives.csv and collectives.json go, created if need be", "DIR",
                  [&request](const std::string& text) { request.out = text; });
}

}  // namespace

void add_bench_collectives_command(CLI::App& bench) {
  CLI::App* command = bench.add_subcommand(
      "collectives", "Time, bandwidth and error of what parallel models exchange");
  const auto request = std::make_shared<Request>();
  add_choice_options(*command, *request);
  add_device_options(*command, request->common);
  add_link_option(*command, request->common);
  add_output_options(*command, request->common);
  command->footer(
      "Bytes: of the whole tensor, of which each rank has or gets an even share; algbw: these "
      "over\n"
      "the time; busbw: the bus bandwidth of nccl-tests, algbw times 2 (p-1)/p for all_reduce of "
      "p\n"
      "ranks, 1 for broadcast, (p-1)/p for the others. 'of limit' is the time of the collective's\n"
      "sums and copies in each rank's own memory, all ranks at once and between the samples, over\n"
      "its own time; or that of the emulated link, if it is longer. Error: against f64.\n"
      "Examples:\n"
      "  mpirun -n 2 portolan bench collectives\n"
      "  mpirun -n 2 portolan bench collectives --collectives all_reduce --sizes 1kB,1MB,100MB "
      "--dtypes f32,bf16\n"
      "  mpirun -n 2 portolan bench collectives --emulate-link bandwidth=1GB/s,latency=50us --out "
      "results");
  command->callback([request] { run(*request); });
}

}  // namespace portolan
