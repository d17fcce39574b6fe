// SPDX-License-Identifier: Apache-2.0
#include "apps/bench_ring_command.hpp"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>
#include <string>
#include <vector>

#include "apps/benchmark_record.hpp"
#include "apps/benchmark_samples.hpp"
#include "apps/collective_run.hpp"
#include "apps/comparison_table.hpp"
#include "apps/machine.hpp"
#include "apps/options.hpp"
#include "apps/ring_benchmark.hpp"
#include "core/error.hpp"
#include "models/outline.hpp"

namespace portolan {
namespace {

constexpr std::int64_t kMostNumbers = 1000000;
constexpr std::int64_t kMostTokens = 10000;
/// The others wait while one rank takes a prompt alone, which a large model makes long.
constexpr std::chrono::hours kLongestPrompt{2};

struct Request {
  CommonOptions common;
  std::vector<std::int64_t> prompt_numbers{10, 50, 100, 200, 400};
  int tokens = 3;
  std::optional<std::string> preset;
  std::optional<std::int64_t> layers;
  std::optional<std::string> out;
};

/// LLaMA 3 8B at a quarter of its width, with 2 layers and a small vocabulary: minutes on a CPU.
ModelConfig small_config() {
  ModelConfig model = preset_config("llama-3-8b");
  CommonConfig& config = model.common();
  config.hidden_size /= 4;
  config.intermediate_size /= 4;
  config.head_dim = 64;
  config.attention_heads /= 2;
  config.kv_heads /= 2;
  config.vocab_size = 8192;
  return model.with_layers(2);
}

ModelConfig config_of(const Request& request) {
  const ModelConfig config = request.preset ? preset_config(*request.preset) : small_config();
  require(outline_of(config).causal, "--preset: {} generates no tokens", config.architecture);
  return config.with_layers(request.layers);
}

std::int64_t most(const std::vector<std::int64_t>& bytes) {
  return *std::ranges::max_element(bytes);
}

struct RingComparison {
  const RingBenchmarkRow& alone;
  const RingBenchmarkRow& ring;
  int ranks;
  LinkEmulation link;

  [[nodiscard]] double speed_up() const { return alone.median_s() / ring.median_s(); }
  [[nodiscard]] double efficiency() const { return speed_up() / ranks; }
  [[nodiscard]] bool same_tokens() const { return alone.ids == ring.ids; }
  /// What the blocks of one token would take on the emulated link if nothing else went on.
  [[nodiscard]] double transfer_s() const {
    return link.seconds(ring.ring_messages, ring.ring_bytes);
  }
  /// The share of that time during which the ranks computed.
  [[nodiscard]] double hidden() const {
    return std::max(0.0, 1.0 - ring.median_waiting_s() / transfer_s());
  }
};

std::vector<RingComparison> comparisons_of(const RingBenchmarkResult& result, int ranks,
                                           const LinkEmulation& link) {
  std::vector<RingComparison> all;
  for (std::size_t i = 0; i < result.alone.size(); ++i) {
    all.push_back({result.alone[i], result.ring[i], ranks, link});
  }
  return all;
}

std::string table(const std::vector<RingComparison>& comparisons) {
  std::string text =
      "prompt N  tokens  alone s/token  ring s/token  waiting s  speed-up  efficiency  alone GB  "
      "ring GB per rank  tokens\n";
  for (const RingComparison& c : comparisons) {
    text +=
        fmt::format("{:>8}  {:>6}  {:>13}  {:>12}  {:>9}  {:>8}  {:>10}  {:>8}  {:>16}  {}",
                    c.ring.prompt_number, c.ring.prompt_tokens, number_text(c.alone.median_s()),
                    number_text(c.ring.median_s()), number_text(c.ring.median_waiting_s()),
                    ratio_text(c.speed_up()), percent_text(c.efficiency()),
                    gigabytes_text(most(c.alone.peak_bytes)),
                    gigabytes_text(most(c.ring.peak_bytes)), c.same_tokens() ? "equal" : "differ");
    if (c.link.active()) {
      text += fmt::format("; the link needs {} s, {} of it hidden", number_text(c.transfer_s()),
                          percent_text(c.hidden()));
    }
    text += '\n';
  }
  return text;
}

std::string csv(const std::vector<RingComparison>& comparisons) {
  std::string text =
      "strategy,ranks,prompt_n,prompt_tokens,generated,mean_s,median_s,min_s,p80_s,"
      "median_waiting_s,ring_bytes,allocated_peak_bytes,speed_up,efficiency,ids\n";
  const auto add = [&text](const char* strategy, int ranks, const RingBenchmarkRow& row,
                           const std::string& against_alone) {
    const SampleSummary summary = summary_of(row.seconds);
    const double mean = std::accumulate(row.seconds.begin(), row.seconds.end(), 0.0) /
                        static_cast<double>(row.seconds.size());
    std::string ids;
    for (const std::int32_t id : row.ids) ids += fmt::format("{}{}", ids.empty() ? "" : " ", id);
    text += fmt::format("{},{},{},{},{},{},{},{},{},{},{},{},{},{}\n", strategy, ranks,
                        row.prompt_number, row.prompt_tokens, row.ids.size(), mean, summary.median,
                        summary.minimum, summary.percentile80, row.median_waiting_s(),
                        row.ring_bytes, most(row.peak_bytes), against_alone, ids);
  };
  for (const RingComparison& c : comparisons) {
    add("alone", 1, c.alone, "1,1");
    add("ring", c.ranks, c.ring, fmt::format("{},{}", c.speed_up(), c.efficiency()));
  }
  return text;
}

nlohmann::ordered_json to_json(const RingBenchmarkRow& row) {
  return {{"median_s", row.median_s()},
          {"samples_s", row.seconds},
          {"waiting_s", row.waiting_s},
          {"ring_bytes_per_rank", row.ring_bytes},
          {"allocated_peak_bytes", row.peak_bytes},
          {"ids", row.ids}};
}

nlohmann::ordered_json rows_of(const std::vector<RingComparison>& comparisons) {
  nlohmann::ordered_json rows = nlohmann::ordered_json::array();
  for (const RingComparison& c : comparisons) {
    nlohmann::ordered_json row{
        {"prompt_n", c.ring.prompt_number}, {"prompt_tokens", c.ring.prompt_tokens},
        {"alone", to_json(c.alone)},        {"ring", to_json(c.ring)},
        {"speed_up", c.speed_up()},         {"efficiency", c.efficiency()},
        {"same_tokens", c.same_tokens()}};
    if (c.link.active()) {
      row["link_transfer_s"] = c.transfer_s();
      row["link_transfer_hidden"] = c.hidden();
    }
    rows.push_back(std::move(row));
  }
  return rows;
}

void report(const Request& request, const RingBenchmarkSettings& settings, const Runtime& runtime,
            const RingBenchmarkResult& result, const Machine& machine) {
  const std::vector<RingComparison> comparisons =
      comparisons_of(result, runtime.world().size(), settings.link);
  const nlohmann::ordered_json document{
      {"environment", environment_of(machine, runtime, request.common)},
      {"model",
       {{"hidden_size", settings.config.common().hidden_size},
        {"layers", settings.config.common().layers},
        {"attention_heads", settings.config.common().attention_heads},
        {"kv_heads", settings.config.common().kv_heads},
        {"vocab_size", settings.config.common().vocab_size},
        {"dtype", name_of(settings.dtype)}}},
      {"rows", rows_of(comparisons)}};
  if (!request.common.json) {
    fmt::print("{}; alone: one rank with as many threads; median of {} tokens\n{}",
               team_text(runtime), settings.tokens, table(comparisons));
  }
  publish("ring", document, csv(comparisons), request.out, request.common.json);
}

void run(const Request& request) {
  const Machine machine = describe_machine();
  RingBenchmarkSettings settings{.config = config_of(request),
                                 .prompt_numbers = request.prompt_numbers,
                                 .tokens = request.tokens,
                                 .dtype = request.common.dtype.value_or(DType::f32),
                                 .seed = request.common.seed,
                                 .link = request.common.link};
  RuntimeOptions options = runtime_options(request.common);
  options.least_deadline = kLongestPrompt;
  run_collectively(options, [&](Runtime& runtime) {
    require(runtime.world().size() > 1,
            "bench ring needs several ranks: mpirun -n 2 portolan bench ring");
    const bool is_root = runtime.world().rank() == 0;
    prepare_record(runtime.world(), request.out);
    const RingBenchmarkResult result = measure_ring(settings, runtime);
    if (is_root) report(request, settings, runtime, result, machine);
    runtime.world().barrier();
  });
}

}  // namespace

void add_bench_ring_command(CLI::App& bench) {
  CLI::App* command = bench.add_subcommand(
      "ring", "Greedy tokens of a prompt sweep by ring attention and by one rank");
  const auto request = std::make_shared<Request>();
  const auto add = [command](const std::string& name, const std::string& help,
                             const std::string& value,
                             const std::function<void(const std::string&)>& store) {
    add_text_option(*command, name, help, value, store);
  };
  add("--prompt-n", "N of the prompts \"0, 1, ..., N-1\" (default 10,50,100,200,400)", "A,B,C",
      [request](const std::string& text) {
        request->prompt_numbers = parse_integers("--prompt-n", text, kMostNumbers);
      });
  add("--tokens", "Generated and timed per prompt (default 3)", "N",
      [request](const std::string& text) {
        request->tokens = static_cast<int>(parse_integer("--tokens", text, 1, kMostTokens));
      });
  add("--preset", "Model shape (default: LLaMA 3 8B at a quarter of its width, 2 layers)", "NAME",
      [request](const std::string& text) { request->preset = text; });
  add("--layers", "Layers of it", "N", [request](const std::string& text) {
    request->layers = parse_integer("--layers", text, 1, kMaximumLayers);
  });
  add_dtype_option(*command, "f32, bf16 or f16 (default f32)", request->common.dtype);
  add("--out", "Where ring.csv and ring.json go, created if need be", "DIR",
      [request](const std::string& text) { request->out = text; });
  add_run_options(*command, request->common);
  add_link_option(*command, request->common);
  add_output_options(*command, request->common);
  command->footer(
      "Each token is a whole forward without a key/value cache, as in the published sweep; random\n"
      "weights; prompts have as many random ids as LLaMA 3's tokens of the numbers (N = 2000: "
      "6998).\n"
      "Waiting: of a token's time, what the slowest rank spent waiting for blocks.\n"
      "Examples:\n"
      "  mpirun -n 2 portolan bench ring\n"
      "  mpirun -n 2 portolan bench ring --emulate-link bandwidth=1GB/s,latency=50us\n"
      "  mpirun -n 4 portolan bench ring --preset llama-3-8b --dtype bf16 --prompt-n 10,100,2000 "
      "--tokens 5 --out results");
  command->callback([request] { run(*request); });
}

}  // namespace portolan
