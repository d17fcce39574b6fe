// SPDX-License-Identifier: Apache-2.0
#include "apps/collectives_benchmark.hpp"

#include <algorithm>
#include <functional>
#include <numeric>
#include <optional>
#include <utility>

#include "apps/memory_check.hpp"
#include "core/backend.hpp"
#include "parallel/gather_values.hpp"

namespace portolan {
namespace {

/// Calls that follow each other for so long that the clock and the start do not matter.
class CallSeries {
 public:
  CallSeries(const Runtime& runtime, std::function<void()> call)
      : runtime_(runtime), call_(std::move(call)) {
    constexpr double kSeconds = 1e-3;
    constexpr double kMostCalls = 1e5;
    sample();  // warms up
    calls_ = 3;
    calls_ = static_cast<int>(std::clamp(kSeconds / sample(), 1.0, kMostCalls));
  }

  [[nodiscard]] int calls() const { return calls_; }
  /// Seconds of a call, the slowest rank's. Collective.
  double sample() const {
    return slowest_seconds(runtime_.world(), runtime_.device(),
                           [this] {
                             for (int i = 0; i < calls_; ++i) call_();
                           }) /
           calls_;
  }

 private:
  const Runtime& runtime_;
  std::function<void()> call_;
  int calls_ = 1;
};

/// What the emulated link takes for this rank's part of a call.
double link_seconds(const Communicator& world, Collective collective, std::int64_t bytes) {
  const bool ring = collective == Collective::ring_shift;
  const std::int64_t advances = ring ? world.size() - 1 : 1;
  return world.emulated_link().seconds(advances * messages_of(collective, world.size()), bytes);
}

/// The first call: its bytes, its memory, its result.
void check_once(CollectiveRow& row, const CollectiveWork& work, const Runtime& runtime) {
  Communicator& world = runtime.world();
  CachingAllocator& allocator = backend_of(runtime.device()).allocator();
  const auto& counters = world.counters()[static_cast<std::size_t>(row.setting.collective)];
  const std::int64_t counted = counters.bytes;
  allocator.reset_peaks();
  world.reset_memory_peaks();
  const std::int64_t held = allocator.counters().allocated + world.memory().allocated;
  work.write_inputs();
  work.run();
  backend_of(runtime.device()).synchronize();
  const std::int64_t peak = allocator.counters().allocated_peak + world.memory().allocated_peak;
  const std::int64_t bytes = counters.bytes - counted;
  row.link_s = largest_value(world, link_seconds(world, row.setting.collective, bytes));
  row.peak_bytes =
      static_cast<std::int64_t>(largest_value(world, static_cast<double>(peak - held)));
  const std::vector<double> all = gather_values(world, static_cast<double>(bytes));
  row.communicated_bytes = static_cast<std::int64_t>(std::accumulate(all.begin(), all.end(), 0.0));
  row.max_error = work.error();
}

}  // namespace

double bus_factor(Collective collective, int ranks) {
  const double others = static_cast<double>(ranks - 1) / ranks;
  switch (collective) {
    case Collective::all_reduce:
      return 2.0 * others;
    case Collective::all_gather:
    case Collective::reduce_scatter:
    case Collective::ring_shift:
      return others;
    case Collective::broadcast:
      return 1.0;
    case Collective::barrier:
      break;
  }
  return 0.0;
}

double CollectiveRow::rate() const { return static_cast<double>(setting.bytes) / median_s(); }

double CollectiveRow::limit_s() const { return std::max(summary_of(local_s).median, link_s); }

std::string_view CollectiveRow::limit() const {
  return link_s > summary_of(local_s).median ? "link" : "memory";
}

CollectiveRow measure_collective(const CollectiveCase& setting, const SampleLimits& limits,
                                 const Runtime& runtime) {
  Communicator& world = runtime.world();
  const auto size = static_cast<std::int64_t>(size_of(setting.dtype));
  const std::int64_t elements = CollectiveWork::elements(setting, world.size());
  const LocalWork::Pieces pieces =
      LocalWork::pieces(setting.collective, elements, world.rank(), world.size());
  CollectiveRow row{.setting = setting, .ranks = world.size()};
  row.setting.bytes = elements * size;

  std::optional<CollectiveWork> work;
  std::optional<LocalWork> local;
  const bool fits = finds_memory(world, [&] {
    backend_of(runtime.device()).allocator().release_cached();
    const std::int64_t own =
        elements + elements / world.size() + pieces.elements * (pieces.sources + pieces.targets);
    require_memory(world, runtime.device(), {.weights = own * size});
    work.emplace(setting, world, runtime.device());
    local.emplace(pieces, setting.dtype, runtime.device());
  });
  if (!fits) {
    row.refusal = "out of memory";
    return row;
  }
  check_once(row, *work, runtime);
  work->clear_inputs();
  const CallSeries calls(runtime, [&work] { work->run(); });
  const CallSeries local_calls(runtime, [&local] { local->run(); });
  row.calls_per_sample = calls.calls();
  SampleBudget budget(limits, &world);
  while (budget.next()) {
    row.local_s.push_back(local_calls.sample());
    row.samples_s.push_back(calls.sample());
  }
  return row;
}

}  // namespace portolan
