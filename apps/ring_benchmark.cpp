// SPDX-License-Identifier: Apache-2.0
#include "apps/ring_benchmark.hpp"

#include <algorithm>
#include <memory>

#include "apps/benchmark_samples.hpp"
#include "apps/forward_measurement.hpp"
#include "core/backend.hpp"
#include "core/timer.hpp"
#include "models/registry.hpp"
#include "parallel/gather_values.hpp"

namespace portolan {
namespace {

/// A model over the ranks of one communicator, and the sweep over it.
class Sweep {
 public:
  Sweep(const RingBenchmarkSettings& settings, Communicator& ranks, Device device)
      : settings_(settings),
        layout_(ParallelLayout::of(ranks.size() > 1 ? ParallelMode::ring : ParallelMode::none,
                                   ranks.size())),
        context_(ranks, layout_),
        weights_(make_random_weights(settings.seed)),
        model_(make_model({.plan = ModelPlan(settings.config, layout_),
                           .context = context_,
                           .weights = *weights_,
                           .dtype = settings.dtype,
                           .device = device,
                           .maximum_length = numeric_prompt_tokens(settings.prompt_numbers.back()) +
                                             settings.tokens})) {}

  RingBenchmarkRow run(std::int64_t prompt_number) {
    RingBenchmarkRow row;
    row.prompt_number = prompt_number;
    row.prompt_tokens = numeric_prompt_tokens(prompt_number);
    std::vector<std::int32_t> ids = random_token_ids(settings_.seed, 1, row.prompt_tokens,
                                                     settings_.config.common().vocab_size);
    CachingAllocator& allocator = backend_of(model_->device()).allocator();
    allocator.release_cached();       // each prompt starts from the weights alone
    static_cast<void>(next_id(ids));  // warms up
    allocator.reset_peaks();
    context_.reset_communication_memory_peaks();
    for (int i = 0; i < settings_.tokens; ++i) {
      context_.world().barrier();
      context_.reset_communication();
      const Stopwatch stopwatch;
      const std::int32_t id = next_id(ids);
      row.seconds.push_back(largest_value(context_.world(), stopwatch.seconds()));
      const CollectiveCounters shifts =
          context_.communication()[static_cast<std::size_t>(Collective::ring_shift)];
      row.waiting_s.push_back(largest_value(context_.world(), shifts.seconds));
      row.ring_messages = shifts.calls;
      row.ring_bytes = shifts.bytes;
      ids.push_back(id);
      row.ids.push_back(id);
    }
    const std::int64_t peak =
        allocator.counters().allocated_peak + context_.communication_memory().allocated_peak;
    for (const double bytes : gather_values(context_.world(), static_cast<double>(peak))) {
      row.peak_bytes.push_back(static_cast<std::int64_t>(bytes));
    }
    return row;
  }

 private:
  /// Greedy, in host memory when it returns.
  [[nodiscard]] std::int32_t next_id(const std::vector<std::int32_t>& ids) const {
    const auto length = static_cast<std::int64_t>(ids.size());
    const std::int64_t last = length - 1;
    const Tensor logits = model_->gather_logits(model_->forward(ids, 1), {&last, 1}, length);
    const float* values = logits.data<float>();
    return static_cast<std::int32_t>(std::max_element(values, values + logits.elements()) - values);
  }

  const RingBenchmarkSettings& settings_;
  ParallelLayout layout_;
  ParallelContext context_;
  std::unique_ptr<WeightSource> weights_;
  std::unique_ptr<Model> model_;
};

}  // namespace

std::int64_t numeric_prompt_tokens(std::int64_t numbers) {
  std::int64_t tokens = 2 * (numbers - 1);
  // Numbers from `first` on have so many digits that they take `groups` tokens.
  std::int64_t first = 0;
  std::int64_t end = 1000;
  for (std::int64_t groups = 1; first < numbers; ++groups) {
    tokens += groups * (std::min(end, numbers) - first);
    first = end;
    end *= 1000;
  }
  return tokens;
}

double RingBenchmarkRow::median_s() const { return summary_of(seconds).median; }
double RingBenchmarkRow::median_waiting_s() const { return summary_of(waiting_s).median; }

RingBenchmarkResult measure_ring(const RingBenchmarkSettings& settings, const Runtime& runtime) {
  Communicator& world = runtime.world();
  RingBenchmarkResult result;
  {
    const std::unique_ptr<Communicator> self = make_single_communicator();
    std::unique_ptr<Sweep> alone;
    if (world.rank() == 0) alone = std::make_unique<Sweep>(settings, *self, runtime.device());
    for (const std::int64_t number : settings.prompt_numbers) {
      if (alone) result.alone.push_back(alone->run(number));
      world.barrier();  // waits have a deadline: one prompt at a time
    }
  }
  Sweep ring(settings, world, runtime.device());
  for (const std::int64_t number : settings.prompt_numbers) {
    result.ring.push_back(ring.run(number));
  }
  return result;
}

}  // namespace portolan
