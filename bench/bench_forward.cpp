// SPDX-License-Identifier: Apache-2.0
/// Times one mode's forward pass beside its matrix products alone.
///
///   mpirun -n 2 bench_forward --mode sp --dtype bf16 --seq-lens 256,1024
///     interleaves forwards and floors and prints medians and their ratio;
///   mpirun -n 2 bench_forward --mode tp --dtype f32 --serve
///     answers "forward 1024", "floor 1024", "memory" and "quit" from stdin with one JSON line
///     each, so that another program can interleave this with its own measurements.

#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "apps/collective_run.hpp"
#include "apps/forward_measurement.hpp"
#include "core/backend.hpp"
#include "core/error.hpp"
#include "core/error_line.hpp"
#include "core/process_memory.hpp"
#include "core/samples.hpp"
#include "models/registry.hpp"
#include "parallel/gather_values.hpp"

namespace portolan {
namespace {

struct Options {
  std::string preset = "llama-7b";
  std::int64_t layers = 2;
  std::int64_t batch = 1;
  std::string mode = "tp";
  std::string dtype = "f32";
  int threads = 0;
  std::int64_t maximum_length = 1024;
  std::vector<std::int64_t> lengths{256, 512, 1024};
  int repeat = 7;
  bool serve = false;
};

class Bench {
 public:
  Bench(const Options& options, Runtime& runtime)
      : options_(options),
        runtime_(runtime),
        layout_(ParallelLayout::of(parallel_mode_from_name(options.mode), runtime.world().size())),
        context_(runtime.world(), layout_),
        weights_(make_random_weights(0)),
        model_(make_model(
            {.plan = ModelPlan(preset_config(options.preset).with_layers(options.layers), layout_),
             .context = context_,
             .weights = *weights_,
             .dtype = dtype_from_name(options.dtype),
             .device = runtime.device(),
             .maximum_length =
                 std::max(options.maximum_length, *std::ranges::max_element(options.lengths))})) {}

  void compare_with_floor() {
    say(fmt::format("{} {} layers, {}, {}, {} ranks x {} threads, batch {}, {} samples each",
                    options_.preset, options_.layers, options_.mode, options_.dtype,
                    runtime_.world().size(), runtime_.threads(), options_.batch, options_.repeat));
    say("length   forward s [min, max]        floor s [min, max]          ratio");
    for (const std::int64_t length : options_.lengths) {
      ForwardMeasurement& measurement = at(length);
      measurement.forward();
      measurement.floor();
      std::vector<double> forwards;
      std::vector<double> floors;
      for (int i = 0; i < options_.repeat; ++i) {
        forwards.push_back(measurement.forward());
        floors.push_back(measurement.floor());
      }
      const SampleSummary forward = summary_of(forwards);
      const SampleSummary floor = summary_of(floors);
      say(fmt::format("{:>6}   {:.4f} [{:.4f}, {:.4f}]   {:.4f} [{:.4f}, {:.4f}]   {:.3f}", length,
                      forward.median, forward.minimum, forward.maximum, floor.median, floor.minimum,
                      floor.maximum, forward.median / floor.median));
      measurements_.clear();
      backend_of(runtime_.device()).allocator().release_cached();
    }
  }

  void serve() {
    // From here on: building the model is not what the peers' peaks contain either.
    static_cast<void>(reset_resident_peak());
    say(nlohmann::json{{"ready", true}, {"ranks", runtime_.world().size()}}.dump());
    while (true) {
      const auto [command, length] = next_command();
      if (command == kQuit) return;
      if (command == kMemory) {
        const MemoryCounters counters = backend_of(runtime_.device()).allocator().counters();
        say(nlohmann::json{
            {"resident_peak", gather(static_cast<double>(process_memory().resident_peak))},
            {"allocated_peak", gather(static_cast<double>(counters.allocated_peak))}}
                .dump());
        continue;
      }
      ForwardMeasurement& measurement = at(length);
      const double seconds = command == kForward ? measurement.forward() : measurement.floor();
      say(nlohmann::json{{"seq_len", length}, {"seconds", seconds}}.dump());
    }
  }

 private:
  static constexpr int kQuit = 0;
  static constexpr int kForward = 1;
  static constexpr int kFloor = 2;
  static constexpr int kMemory = 3;

  [[nodiscard]] bool is_root() const { return runtime_.world().rank() == 0; }

  void say(const std::string& line) const {
    if (!is_root()) return;
    std::puts(line.c_str());
    std::fflush(stdout);
  }

  [[nodiscard]] std::vector<double> gather(double value) const {
    return gather_values(runtime_.world(), value);
  }

  ForwardMeasurement& at(std::int64_t length) {
    std::unique_ptr<ForwardMeasurement>& entry = measurements_[length];
    if (!entry) {
      entry = std::make_unique<ForwardMeasurement>(*model_, options_.batch, length, 0);
    }
    return *entry;
  }

  /// Rank 0's next line, on every rank. The others sleep meanwhile: a waiting rank must not take
  /// time from whatever is measured between two commands.
  std::pair<int, std::int64_t> next_command() {
    int command = kQuit;
    std::int64_t length = 0;
    if (is_root()) {
      std::string word;
      if (std::cin >> word) {
        if (word == "forward") command = kForward;
        if (word == "floor") command = kFloor;
        if (word == "memory") command = kMemory;
        if (command == kForward || command == kFloor) std::cin >> length;
      }
      if (length < 0 || length > options_.maximum_length) command = kQuit;
    }
    return share(command, length);
  }

  std::pair<int, std::int64_t> share(int command, std::int64_t length) {
    sequence_ += 1;
    const std::string path = fmt::format("/tmp/portolan-bench-{}", launcher_process());
    if (is_root() && runtime_.world().size() > 1) {
      std::ofstream file(path + ".partial");
      file << sequence_ << ' ' << command << ' ' << length << '\n';
      file.close();
      if (!file) throw Error(fmt::format("{}: cannot be written", path));
      std::rename((path + ".partial").c_str(), path.c_str());
    }
    while (!is_root()) {
      std::ifstream file(path);
      long long sequence = 0;
      if (file >> sequence >> command >> length && sequence == sequence_) break;
      usleep(20000);
    }
    runtime_.world().barrier();
    if (is_root() && command == kQuit) std::remove(path.c_str());
    return {command, length};
  }

  /// The same on all ranks of a node: their common parent.
  static int launcher_process() { return static_cast<int>(getppid()); }

  const Options& options_;
  Runtime& runtime_;
  ParallelLayout layout_;
  ParallelContext context_;
  std::unique_ptr<WeightSource> weights_;
  std::unique_ptr<Model> model_;
  std::map<std::int64_t, std::unique_ptr<ForwardMeasurement>> measurements_;
  long long sequence_ = 0;
};

void run(const Options& options) {
  run_collectively({.device = DeviceKind::cpu, .threads = options.threads}, [&](Runtime& runtime) {
    Bench bench(options, runtime);
    if (options.serve) {
      bench.serve();
    } else {
      bench.compare_with_floor();
    }
  });
}

}  // namespace
}  // namespace portolan

int main(int argc, char** argv) {
  portolan::Options options;
  CLI::App application("Times a forward pass beside its matrix products alone");
  application.add_option("--preset", options.preset);
  application.add_option("--layers", options.layers);
  application.add_option("--batch", options.batch);
  application.add_option("--mode", options.mode);
  application.add_option("--dtype", options.dtype);
  application.add_option("--threads", options.threads);
  application.add_option("--max-seq-len", options.maximum_length);
  application.add_option("--seq-lens", options.lengths)->delimiter(',');
  application.add_option("--repeat", options.repeat)->check(CLI::PositiveNumber);
  application.add_flag("--serve", options.serve);
  CLI11_PARSE(application, argc, argv);
  try {
    portolan::run(options);
    return 0;
  } catch (const portolan::Error& error) {
    portolan::print_error(error.what());
    return error.exit_code();
  }
}
