// SPDX-License-Identifier: Apache-2.0
#include "apps/worker.hpp"

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>
#include <span>

#include "apps/collective_run.hpp"
#include "apps/forward_measurement.hpp"
#include "core/error.hpp"
#include "core/ops.hpp"
#include "core/process_memory.hpp"
#include "core/safetensors_writer.hpp"
#include "core/samples.hpp"
#include "core/timer.hpp"
#include "models/registry.hpp"
#include "parallel/gather_values.hpp"

namespace portolan {
namespace {

using nlohmann::ordered_json;

ordered_json statistics(const std::vector<double>& samples) {
  const SampleSummary summary = summary_of(samples);
  return {{"median", summary.median},
          {"min", summary.minimum},
          {"max", summary.maximum},
          {"samples", samples}};
}

/// The sample that is the median; of an even number the smaller of the two in the middle.
std::size_t median_place(const std::vector<double>& samples) {
  std::vector<std::size_t> places(samples.size());
  std::iota(places.begin(), places.end(), std::size_t{0});
  std::ranges::stable_sort(places, {}, [&](std::size_t place) { return samples[place]; });
  return places[(places.size() - 1) / 2];
}

/// The job on this rank.
class Worker {
 public:
  Worker(const WorkerSpecification& specification, Runtime& runtime)
      : specification_(specification),
        runtime_(runtime),
        backend_(backend_of(runtime.device())),
        world_(runtime.world()) {}

  void run() {
    announce();
    if (specification_.published_protocol) {
      // Both models stay alive, as in the procedure that is repeated here.
      run_mode(ParallelMode::sp);
      run_mode(ParallelMode::tp);
    } else {
      run_mode(specification_.mode);
    }
    if (is_root()) {
      write_samples();
      write_result();
      print({{"event", "done"}});
    }
    world_.barrier();
    contexts_.clear();
  }

 private:
  struct LoadedModel {
    std::unique_ptr<ParallelContext> context;
    std::unique_ptr<Model> model;
  };
  struct Sample {
    std::string suffix;
    std::vector<std::int64_t> rows;
    Tensor logits;
  };

  [[nodiscard]] bool is_root() const { return world_.rank() == 0; }

  void print(const ordered_json& event) const {
    if (!is_root()) return;
    std::puts(event.dump().c_str());
    std::fflush(stdout);
  }

  [[nodiscard]] std::vector<double> gather(double value) const {
    return gather_values(world_, value);
  }
  [[nodiscard]] std::vector<std::int64_t> gather_bytes(std::int64_t bytes) const {
    const std::vector<double> values = gather(static_cast<double>(bytes));
    return {values.begin(), values.end()};
  }

  void announce() {
    const std::vector<std::string> binding = gather_texts(world_, runtime_.binding());
    environment_ = runtime_.description();
    environment_["binding"] = binding;
    environment_["threads_per_rank"] = runtime_.threads();
    print({{"event", "start"},
           {"ranks", world_.size()},
           {"transport", world_.description()},
           {"binding", binding}});
  }

  void run_mode(ParallelMode mode) {
    allocated_before_ = gather_bytes(backend_.allocator().counters().allocated);
    resident_before_ = gather_bytes(process_memory().resident);
    const Stopwatch stopwatch;
    const ParallelLayout layout = ParallelLayout::of(mode, world_.size());
    const std::int64_t longest = *std::ranges::max_element(specification_.sequence_lengths);
    LoadedModel& loaded = contexts_.emplace_back();
    loaded.context = std::make_unique<ParallelContext>(world_, layout);
    const std::unique_ptr<WeightSource> weights = make_random_weights(specification_.seed);
    loaded.model = make_model({.plan = ModelPlan(specification_.config, layout),
                               .context = *loaded.context,
                               .weights = *weights,
                               .dtype = specification_.dtype,
                               .device = runtime_.device(),
                               .maximum_length = longest});
    world_.barrier();
    weights_ = gather_bytes(loaded.model->weight_bytes());
    resident_loaded_ = gather_bytes(process_memory().resident_peak);
    print({{"event", "model"},
           {"mode", name_of(mode)},
           {"seconds", stopwatch.seconds()},
           {"weight_bytes", weights_}});
    for (const std::int64_t length : specification_.sequence_lengths) {
      ordered_json row = measure(*loaded.model, *loaded.context, mode, length);
      print([&row] {
        ordered_json event = {{"event", "row"}};
        event.update(row);
        return event;
      }());
      rows_.push_back(std::move(row));
    }
  }

  [[nodiscard]] ordered_json measure(const Model& model, ParallelContext& context,
                                     ParallelMode mode, std::int64_t length) {
    // Each length starts from the weights alone, or the blocks of the one before would count.
    backend_.allocator().release_cached();
    ForwardMeasurement measurement(model, specification_.batch, length, specification_.seed);
    backend_.allocator().reset_peaks();
    context.reset_communication_memory_peaks();
    peak_is_reset_ = reset_resident_peak();
    const auto forward = [&](int repeat) {
      context.reset_communication();
      const double seconds = measurement.forward();
      print({{"event", "forward"}, {"seq_len", length}, {"repeat", repeat}, {"seconds", seconds}});
      return seconds;
    };
    const bool published = specification_.published_protocol;
    const int warmup = published ? 0 : specification_.warmup;
    const int repeat = published ? 1 : specification_.repeat;
    for (int i = -warmup; i < 0; ++i) forward(i);

    std::vector<double> times;
    std::vector<double> floors;
    std::vector<CommunicationCounters> counters;
    std::optional<ordered_json> memory;
    for (int i = 0; i < repeat; ++i) {
      times.push_back(forward(i));
      counters.push_back(context.communication());
      // Read before the first floor: its buffers are not the forward's.
      if (!memory) memory = read_memory(model, length);
      if (i < specification_.floor_repeat && !published) {
        measurement_floor(measurement, length, floors);
      }
    }
    ordered_json row = {{"mode", name_of(mode)},
                        {"dtype", name_of(specification_.dtype)},
                        {"seq_len", length},
                        {"batch", specification_.batch},
                        {"layers", specification_.config.common().layers},
                        {"ranks", world_.size()},
                        {"threads_per_rank", runtime_.threads()},
                        {"protocol", published ? "published" : "fair"},
                        {"proven", true},
                        {"time_s", statistics(times)}};
    row["floor_s"] = floors.empty() ? ordered_json() : ordered_json(summary_of(floors).median);
    row["memory_bytes"] = std::move(*memory);
    describe_communication(model.plan(), length, counters[median_place(times)], row);
    check_start(row);
    keep_sample(model, measurement, mode, length);
    return row;
  }

  void measurement_floor(ForwardMeasurement& measurement, std::int64_t length,
                         std::vector<double>& floors) {
    floors.push_back(measurement.floor());
    print({{"event", "floor"}, {"seq_len", length}, {"seconds", floors.back()}});
  }

  [[nodiscard]] ordered_json read_memory(const Model& model, std::int64_t length) const {
    // Partial sums and ring blocks live in the communicators' windows.
    MemoryCounters counters = backend_.allocator().counters();
    counters += model.context().communication_memory();
    const ProcessMemory resident = process_memory();
    const std::int64_t formula =
        model.weight_bytes() + model.plan().activation_bytes(world_.rank(), specification_.batch,
                                                             length, specification_.dtype);
    return {{"allocated_before_model", allocated_before_},
            {"resident_before_model", resident_before_},
            {"resident_peak_loading", resident_loaded_},
            {"weights", weights_},
            {"formula", gather_bytes(formula)},
            {"allocated_peak", gather_bytes(counters.allocated_peak)},
            {"reserved_peak", gather_bytes(counters.reserved_peak)},
            {"resident", gather_bytes(resident.resident)},
            {"resident_peak", gather_bytes(resident.resident_peak)},
            {"resident_peak_is_of", peak_is_reset_ ? "this length" : "the process"}};
  }

  /// Adds what was counted in the median forward beside what the plan says, and refuses the row
  /// where they differ.
  void describe_communication(const ModelPlan& plan, std::int64_t length,
                              const CommunicationCounters& counters, ordered_json& row) const {
    const ExpectedCommunication expected =
        plan.communication(specification_.batch, length, specification_.dtype);
    ordered_json by_collective = ordered_json::object();
    ordered_json expectation = ordered_json::object();
    std::int64_t all_calls = 0;
    std::int64_t all_bytes = 0;
    double all_seconds = 0.0;
    for (std::size_t i = 0; i < kCollectiveCount; ++i) {
      const auto name = std::string(name_of(static_cast<Collective>(i)));
      if (static_cast<Collective>(i) == Collective::barrier) continue;
      const auto sum = [this](double value) {
        double total = 0.0;
        for (const double part : gather(value)) total += part;
        return total;
      };
      const auto calls = static_cast<std::int64_t>(sum(static_cast<double>(counters[i].calls)));
      const auto bytes = static_cast<std::int64_t>(sum(static_cast<double>(counters[i].bytes)));
      const double mean = sum(counters[i].seconds) / world_.size();
      if (calls != 0) {
        by_collective[name] = {{"calls", calls}, {"bytes", bytes}, {"seconds", mean}};
      }
      if (expected[i].calls != 0) {
        expectation[name] = {{"calls", expected[i].calls}, {"bytes", expected[i].bytes}};
      }
      all_calls += calls;
      all_bytes += bytes;
      all_seconds += mean;
      if (calls != expected[i].calls || bytes != expected[i].bytes) {
        row["proven"] = false;
        row["reason"] = fmt::format("{}: counted {} calls and {} bytes, the plan implies {} and {}",
                                    name, calls, bytes, expected[i].calls, expected[i].bytes);
      }
    }
    row["communication"] = {{"calls", all_calls},
                            {"bytes", all_bytes},
                            {"seconds", all_seconds},
                            {"by_collective", by_collective},
                            {"expected", expectation}};
  }

  void check_start(ordered_json& row) const {
    if (specification_.published_protocol) return;
    for (const std::int64_t bytes : allocated_before_) {
      if (bytes == 0) continue;
      row["proven"] = false;
      row["reason"] = fmt::format("{} bytes were allocated before the model was built", bytes);
    }
  }

  void keep_sample(const Model& model, ForwardMeasurement& measurement, ParallelMode mode,
                   std::int64_t length) {
    const std::string suffix = specification_.published_protocol
                                   ? fmt::format("{}.{}", length, name_of(mode))
                                   : std::to_string(length);
    const std::vector<std::int64_t> rows =
        sampled_rows(specification_.seed, specification_.batch, length, specification_.sample_rows);
    const Tensor gathered = model.gather_logits(measurement.logits(), rows, length);
    if (is_root()) samples_.push_back({suffix, rows, gathered});
  }

  void write_samples() const {
    std::vector<SafetensorsTensor> tensors;
    for (const Sample& sample : samples_) {
      const auto rows = static_cast<std::int64_t>(sample.rows.size());
      tensors.push_back({"rows." + sample.suffix, DType::i64, {rows}});
      tensors.push_back({"logits." + sample.suffix, DType::f32, {rows, sample.logits.dim(1)}});
    }
    SafetensorsWriter writer(specification_.samples, tensors);
    for (const Sample& sample : samples_) {
      writer.append("rows." + sample.suffix, std::as_bytes(std::span(sample.rows)));
      writer.append("logits." + sample.suffix, {sample.logits.raw(), sample.logits.bytes()});
    }
    writer.finish();
  }

  void write_result() const {
    const std::string temporary = specification_.result + ".partial";
    {
      std::ofstream file(temporary);
      file << ordered_json{{"environment", environment_}, {"rows", rows_}}.dump(1) << '\n';
      file.close();
      if (!file) throw Error(fmt::format("{}: cannot be written", temporary));
    }
    std::filesystem::rename(temporary, specification_.result);
  }

  const WorkerSpecification& specification_;
  Runtime& runtime_;
  Backend& backend_;
  Communicator& world_;
  std::vector<LoadedModel> contexts_;
  std::vector<Sample> samples_;
  ordered_json environment_;
  ordered_json rows_ = ordered_json::array();
  std::vector<std::int64_t> allocated_before_;
  std::vector<std::int64_t> resident_before_;
  std::vector<std::int64_t> resident_loaded_;
  std::vector<std::int64_t> weights_;
  bool peak_is_reset_ = false;
};

}  // namespace

void run_worker(const WorkerSpecification& specification) {
  run_collectively({.device = specification.device,
                    .threads = specification.threads,
                    .link = specification.link,
                    .attention_tiles = specification.attention_tiles},
                   [&](Runtime& runtime) { Worker(specification, runtime).run(); });
}

}  // namespace portolan
