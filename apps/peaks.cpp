// SPDX-License-Identifier: Apache-2.0
#include "apps/peaks.hpp"

#include <fmt/format.h>

#include <functional>

#include "apps/benchmark_samples.hpp"
#include "apps/benchmark_work.hpp"
#include "apps/comparison_table.hpp"

namespace portolan {
namespace {

constexpr SampleLimits kLimits{.repeat = 7, .seconds = 2.0};

/// Of `amount` on each rank per second of all ranks, after a pass that warms up.
Peak peak_of(const Runtime& runtime, double amount, const std::function<void()>& work) {
  work();
  const double all = amount * runtime.world().size();
  std::vector<double> rates;
  SampleBudget budget(kLimits, &runtime.world());
  while (budget.next()) {
    rates.push_back(all / slowest_seconds(runtime.world(), runtime.device(), work));
  }
  return {.rate = summary_of(rates), .samples = static_cast<int>(rates.size())};
}

nlohmann::ordered_json to_json(const Peak& peak) {
  return {{"median", peak.rate.median},
          {"min", peak.rate.minimum},
          {"max", peak.rate.maximum},
          {"samples", peak.samples}};
}

std::string line_of(const std::string& name, const Peak& peak, const char* unit) {
  return fmt::format("  {:<20} {} {} ({}) [{}, {}]\n", name, number_text(1e-9 * peak.rate.median),
                     unit, peak.samples, number_text(1e-9 * peak.rate.minimum),
                     number_text(1e-9 * peak.rate.maximum));
}

}  // namespace

MachinePeaks measure_peaks(const Runtime& runtime) {
  MachinePeaks peaks;
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
    const MatrixProduct product(dtype, runtime.device());
    peaks.products.emplace_back(dtype,
                                peak_of(runtime, product.flops(), [&product] { product.run(); }));
  }
  const MemoryRead memory(runtime.device(), runtime.world().size());
  peaks.read = peak_of(runtime, static_cast<double>(memory.bytes()), [&memory] { memory.run(); });
  return peaks;
}

nlohmann::ordered_json to_json(const MachinePeaks& peaks) {
  nlohmann::ordered_json products = nlohmann::ordered_json::object();
  for (const auto& [dtype, peak] : peaks.products) {
    products[std::string(name_of(dtype))] = to_json(peak);
  }
  return {{"matrix_product_flop_per_s", std::move(products)},
          {"read_bytes_per_s", to_json(peaks.read)}};
}

std::string to_text(const MachinePeaks& peaks) {
  std::string text = "peaks\n";
  for (const auto& [dtype, peak] : peaks.products) {
    text += line_of(fmt::format("matrix product {}", name_of(dtype)), peak, "GFLOP/s");
  }
  return text + line_of("reading memory", peaks.read, "GB/s");
}

}  // namespace portolan
