// SPDX-License-Identifier: Apache-2.0
#include "apps/matmul_benchmark.hpp"

#include <algorithm>
#include <functional>
#include <optional>

#include "apps/memory_check.hpp"
#include "core/backend.hpp"
#include "parallel/gather_values.hpp"

namespace portolan {
namespace {

/// The first product: its memory and its result.
void check_once(MatmulRow& row, const MatmulWork& work, const Runtime& runtime) {
  Backend& backend = backend_of(runtime.device());
  backend.allocator().reset_peaks();
  const std::int64_t held = backend.allocator().counters().allocated;
  work.run();
  backend.synchronize();
  const std::int64_t scratch = backend.allocator().counters().allocated_peak - held;
  row.peak_bytes =
      static_cast<std::int64_t>(largest_value(runtime.world(), static_cast<double>(scratch)));
  row.max_error = largest_value(runtime.world(), work.error());
}

}  // namespace

double MatmulRow::limit_s() const {
  return ranks *
         std::max(setting.flops() / product_rate, static_cast<double>(weight_bytes) / read_rate);
}

std::string_view MatmulRow::limit() const {
  const bool computes =
      setting.flops() / product_rate > static_cast<double>(weight_bytes) / read_rate;
  return computes ? "FLOP/s" : "read";
}

MatmulRow measure_matmul(const MatmulCase& setting, const SampleLimits& limits,
                         const MatrixProduct& product, const MemoryRead& memory,
                         const Runtime& runtime) {
  Communicator& world = runtime.world();
  MatmulRow row{.setting = setting, .ranks = world.size()};
  std::optional<MatmulWork> work;
  const bool fits = finds_memory(world, [&] {
    backend_of(runtime.device()).allocator().release_cached();
    require_memory(world, runtime.device(), {.weights = MatmulWork::bytes(setting)});
    work.emplace(setting, runtime.device());
  });
  if (!fits) {
    row.refusal = "out of memory";
    return row;
  }
  row.weight_bytes = work->weight_bytes();
  check_once(row, *work, runtime);
  const auto seconds = [&runtime](const std::function<void()>& timed) {
    return slowest_seconds(runtime.world(), runtime.device(), timed);
  };
  std::vector<double> product_s;
  std::vector<double> read_s;
  SampleBudget budget(limits, &world);
  while (budget.next()) {
    product_s.push_back(seconds([&] { product.run(); }));
    read_s.push_back(seconds([&] { memory.run(); }));
    work->write_input();
    row.samples_s.push_back(seconds([&] { work->run(); }));
  }
  row.product_rate = row.ranks * product.flops() / summary_of(product_s).median;
  row.read_rate = row.ranks * static_cast<double>(memory.bytes()) / summary_of(read_s).median;
  return row;
}

}  // namespace portolan
