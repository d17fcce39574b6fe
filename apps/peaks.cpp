// SPDX-License-Identifier: Apache-2.0
#include "apps/peaks.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <functional>

#include "apps/attention_benchmark.hpp"
#include "apps/benchmark_samples.hpp"
#include "apps/comparison_table.hpp"
#include "core/backend.hpp"
#include "core/ops.hpp"

namespace portolan {
namespace {

constexpr int kMostSamples = 7;
/// No sample of a figure starts later, except the first.
constexpr double kSeconds = 2.0;
/// Of all ranks together, and at least of each.
constexpr std::int64_t kReadElements = std::int64_t{1} << 28;
constexpr std::int64_t kLeastElements = std::int64_t{1} << 24;

/// Of `amount` on each rank per second of all ranks, after a pass that warms up.
Peak peak_of(const Runtime& runtime, double amount, const std::function<void()>& work) {
  work();
  const double all = amount * runtime.world().size();
  std::vector<double> rates;
  // The slowest rank's seconds are the same on all, so all end together.
  for (double spent = 0.0;
       rates.empty() || (std::ssize(rates) < kMostSamples && spent < kSeconds);) {
    const double seconds = slowest_seconds(runtime.world(), runtime.device(), work);
    spent += seconds;
    rates.push_back(all / seconds);
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
  const std::int64_t elements = std::max(kLeastElements, kReadElements / runtime.world().size());
  const Tensor memory = Tensor::empty({elements}, DType::f32, runtime.device());
  ops::fill(memory, 1.0F);
  Backend& backend = backend_of(runtime.device());
  peaks.read = peak_of(runtime, static_cast<double>(memory.bytes()),
                       [&] { static_cast<void>(backend.sum_of_squares(memory)); });
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
