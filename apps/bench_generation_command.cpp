// SPDX-License-Identifier: Apache-2.0
#include "apps/bench_generation_command.hpp"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "apps/benchmark_record.hpp"
#include "apps/benchmark_samples.hpp"
#include "apps/collective_run.hpp"
#include "apps/comparison_table.hpp"
#include "apps/generation_benchmark.hpp"
#include "apps/machine.hpp"
#include "apps/options.hpp"
#include "core/error.hpp"
#include "models/outline.hpp"
#include "models/registry.hpp"

namespace portolan {
namespace {

constexpr std::int64_t kMostTokens = 1000000;

struct Request {
  CommonOptions common;
  std::string preset = "llama-1b";
  std::optional<std::int64_t> layers;
  std::vector<DType> dtypes;
  std::vector<Quantization> quantizations = {Quantization::none};
  GenerationCase setting;
  std::vector<bool> caches = {true};
  std::optional<std::string> out;
};

struct Row {
  DType dtype = DType::f32;
  Quantization quantization = Quantization::none;
  bool use_cache = true;
  GenerationTimes times;
};

std::vector<Row> measure(const Request& request, const ModelConfig& config,
                         const ParallelLayout& layout, const Runtime& runtime) {
  const ParallelContext context(runtime.world(), layout);
  std::vector<Row> rows;
  for (const DType dtype : request.dtypes) {
    for (const Quantization quantization : request.quantizations) {
      const std::unique_ptr<WeightSource> weights = make_random_weights(request.common.seed);
      const std::unique_ptr<Model> model =
          make_model({.plan = ModelPlan(config, layout),
                      .context = context,
                      .weights = *weights,
                      .dtype = dtype,
                      .device = runtime.device(),
                      .maximum_length = request.setting.prompt_tokens + request.setting.new_tokens,
                      .quantization = quantization});
      for (const bool use_cache : request.caches) {
        GenerationCase setting = request.setting;
        setting.scorer.use_cache = use_cache;
        if (!use_cache) setting.scorer.record.reset();
        rows.push_back({dtype, quantization, use_cache, measure_generation(*model, setting)});
      }
    }
  }
  return rows;
}

nlohmann::ordered_json to_json(const Row& row, int ranks) {
  const GenerationTimes& times = row.times;
  const double median = summary_of(times.token_s).median;
  return {{"dtype", name_of(row.dtype)},
          {"quantize", name_of(row.quantization)},
          {"cache", row.use_cache},
          {"recorded", times.recorded},
          {"batch", times.batch},
          {"prompt_tokens", times.prompt_tokens},
          {"prompt_s", times.prompt_s},
          {"prompt_products_s", times.prompt_products_s},
          {"token_s", times_json(times.token_s)},
          {"token_reserved_bytes", times.token_reserved_bytes},
          {"tokens_per_second", static_cast<double>(times.batch) / median},
          {"bytes_per_token_and_rank", times.token_bytes},
          {"bytes_per_second", times.decode_rate(ranks)},
          {"read_bytes_per_second", times.read_rate(ranks)},
          {"read_share", times.decode_rate(ranks) / times.read_rate(ranks)}};
}

std::string table(const std::vector<Row>& rows, int ranks) {
  std::string text =
      "dtype  weights  cache  prompt tok/s  of products  ms/token       min       p80  tokens/s  "
      "GB/s read  "
      "limit GB/s  share\n";
  for (const Row& row : rows) {
    const GenerationTimes& times = row.times;
    const double prompt = summary_of(times.prompt_s).median;
    const SampleSummary token = summary_of(times.token_s);
    text += fmt::format(
        "{:<5}  {:<7}  {:<5}  {:>12}  {:>11}  {:>8}  {:>8}  {:>8}  {:>8}", name_of(row.dtype),
        weights_text(row.dtype, row.quantization), row.use_cache ? "on" : "off",
        number_text(static_cast<double>(times.prompt_tokens * times.batch) / prompt),
        percent_text(summary_of(times.prompt_products_s).median / prompt),
        number_text(1e3 * token.median), number_text(1e3 * token.minimum),
        number_text(1e3 * token.percentile80),
        number_text(static_cast<double>(times.batch) / token.median));
    if (row.use_cache) {
      text += fmt::format("  {:>9}  {:>10}  {:>5}", number_text(1e-9 * times.decode_rate(ranks)),
                          number_text(1e-9 * times.read_rate(ranks)),
                          percent_text(times.decode_rate(ranks) / times.read_rate(ranks)));
    }
    text += '\n';
  }
  return text;
}

std::string csv(const std::vector<Row>& rows, int ranks) {
  std::string text =
      "dtype,quantize,cache,recorded,batch,prompt_tokens,prompt_median_s,prompt_products_median_s,"
      "token_samples,token_median_s,token_min_s,token_p80_s,tokens_per_second,"
      "bytes_per_token_and_rank,bytes_per_second,read_bytes_per_second,read_share\n";
  for (const Row& row : rows) {
    const GenerationTimes& times = row.times;
    const SampleSummary token = summary_of(times.token_s);
    text += fmt::format("{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{}\n", name_of(row.dtype),
                        name_of(row.quantization), row.use_cache, times.recorded, times.batch,
                        times.prompt_tokens, summary_of(times.prompt_s).median,
                        summary_of(times.prompt_products_s).median, times.token_s.size(),
                        token.median, token.minimum, token.percentile80,
                        static_cast<double>(times.batch) / token.median, times.token_bytes,
                        times.decode_rate(ranks), times.read_rate(ranks),
                        times.decode_rate(ranks) / times.read_rate(ranks));
  }
  return text;
}

/// "llama-7b, 2 layers, 2 ranks (tensor 2, sequence parallel) x 1 thread, 128 + 64 tokens, batch
/// 1".
std::string title(const Request& request, const ModelConfig& config, const ParallelLayout& layout,
                  int threads) {
  const int ranks = layout.mesh.ranks();
  const std::string mesh = ranks == 1
                               ? ""
                               : fmt::format(" ({}{})", layout.mesh.to_string(),
                                             layout.sequence_parallel ? ", sequence parallel" : "");
  return fmt::format("{}, {} layer{}, {} rank{}{} x {} thread{}, {} + {} tokens, batch {}",
                     request.preset, config.common().layers, config.common().layers == 1 ? "" : "s",
                     ranks, ranks == 1 ? "" : "s", mesh, threads, threads == 1 ? "" : "s",
                     request.setting.prompt_tokens, request.setting.new_tokens,
                     request.setting.batch);
}

void report(const Request& request, const ModelConfig& config, const ParallelLayout& layout,
            const std::vector<Row>& rows, const Runtime& runtime, const Machine& machine) {
  const int ranks = runtime.world().size();
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (const Row& row : rows) list.push_back(to_json(row, ranks));
  nlohmann::ordered_json environment = environment_of(machine, runtime, request.common);
  environment["mesh"] = layout.mesh.to_string();
  environment["sequence_parallel"] = layout.sequence_parallel;
  const nlohmann::ordered_json document{{"environment", std::move(environment)},
                                        {"model", request.preset},
                                        {"layers", config.common().layers},
                                        {"rows", std::move(list)}};
  if (!request.common.json) {
    fmt::print("{}\n{}", title(request, config, layout, runtime.threads()), table(rows, ranks));
  }
  publish("generation", document, csv(rows, ranks), request.out, request.common.json);
}

/// What can be wrong with the request is found before ranks work together.
ModelConfig config_of(const Request& request) {
  const ModelConfig config = preset_config(request.preset).with_layers(request.layers);
  const ModelOutline outline = outline_of(config);
  require(outline.causal, "--preset {}: a model that fills masks generates no tokens",
          request.preset);
  const std::int64_t longest = outline.longest_sequence.value_or(2 * kMostTokens);
  const GenerationCase& setting = request.setting;
  require(setting.prompt_tokens + setting.new_tokens <= longest,
          "--prompt {} and --tokens {}: the longest sequence of {} has {} tokens",
          setting.prompt_tokens, setting.new_tokens, request.preset, longest);
  return config;
}

void run(const Request& request) {
  const Machine machine = describe_machine();
  const ModelConfig config = config_of(request);
  run_collectively(runtime_options(request.common), [&](Runtime& runtime) {
    const bool is_root = runtime.world().rank() == 0;
    prepare_record(runtime.world(), request.out);
    const ParallelLayout layout = choose_layout(request.common, runtime.world().size());
    const std::vector<Row> rows = measure(request, config, layout, runtime);
    if (is_root) report(request, config, layout, rows, runtime, machine);
    runtime.world().barrier();
  });
}

CLI::App* add_command(CLI::App& bench, const char* name, const char* description,
                      const std::shared_ptr<Request>& request) {
  CLI::App* command = bench.add_subcommand(name, description);
  Request* const r = request.get();  // lives in the callback below
  const auto add = [command](const std::string& option, const std::string& help,
                             const std::string& value,
                             const std::function<void(const std::string&)>& store) {
    add_text_option(*command, option, help, value, store);
  };
  const auto add_count = [&add](const std::string& option, const std::string& help,
                                std::int64_t* value) {
    add(option, fmt::format("{} (default {})", help, *value), "N",
        [option, value](const std::string& text) {
          *value = parse_integer(option, text, 1, kMostTokens);
        });
  };
  add("--preset", fmt::format("Model shape (default {})", r->preset), "NAME",
      [r](const std::string& text) { r->preset = text; });
  add("--layers", "Layers of it", "N", [r](const std::string& text) {
    r->layers = parse_integer("--layers", text, 1, kMaximumLayers);
  });
  add_dtypes_option(*command, r->dtypes);
  add_quantizations_option(*command, r->quantizations);
  add_count("--prompt", "Tokens of a prompt", &r->setting.prompt_tokens);
  add_count("--tokens", "New tokens", &r->setting.new_tokens);
  add_count("--batch", "Sequences", &r->setting.batch);
  add_graph_option(*command, r->setting.scorer.record);
  add("--out", "Where generation.csv and generation.json go, created if need be", "DIR",
      [r](const std::string& text) { r->out = text; });
  add_run_options(*command, r->common);
  add_link_option(*command, r->common);
  add_layout_options(*command, r->common);
  add_output_options(*command, r->common);
  command->callback([request] {
    request->setting.seed = request->common.seed;
    run(*request);
  });
  return command;
}

}  // namespace

void add_bench_decode_command(CLI::App& bench) {
  const auto request = std::make_shared<Request>();
  request->dtypes = {DType::f32, DType::bf16};
  add_command(bench, "decode", "Generated tokens per second beside the memory's read rate", request)
      ->footer(
          "Random weights and prompts. A token reads every weight of a product once, and the "
          "cached\n"
          "keys and values; 'limit' is one pass over memory, timed between tokens; 'of products' "
          "is\n"
          "the share of a prompt's time that its matrix products alone take.\n"
          "Examples:\n"
          "  portolan bench decode --prompt 128 --tokens 64\n"
          "  portolan bench decode --dtypes bf16 --quantize none,int8,int4\n"
          "  mpirun -n 2 portolan bench decode --parallel tp --preset llama-7b --layers 4");
}

void add_bench_latency_command(CLI::App& bench) {
  const auto request = std::make_shared<Request>();
  request->dtypes = {DType::f32};
  request->preset = "llama-34m";
  request->setting.prompt_tokens = 1024;
  request->setting.new_tokens = 256;
  request->caches = {true, false};
  add_command(bench, "latency", "Median time of a token, with and without a key/value cache",
              request)
      ->footer(
          "The published inference table's procedure: prompt of 1024, 256 new tokens, greedy,\n"
          "the median over tokens. Without the cache every token computes the whole sequence.\n"
          "Examples:\n"
          "  portolan bench latency\n"
          "  mpirun -n 2 portolan bench latency --parallel tp --preset llama-1b --dtypes bf16 "
          "--tokens 16");
}

}  // namespace portolan
