// SPDX-License-Identifier: Apache-2.0
#include "apps/attention_benchmark.hpp"

#include "core/backend.hpp"
#include "core/error.hpp"

namespace portolan {
namespace {

void measure(AttentionBenchmarkRow& row, const AttentionBenchmarkLimits& limits,
             const MatrixProduct& product, Device device) {
  const AttentionBenchmarkCase& s = row.setting;
  SampleBudget budget(limits.samples);
  const AttentionBenchmarkPass pass(s, device);
  Backend& backend = backend_of(device);
  if (static_cast<double>(pass.workspace_bytes()) > static_cast<double>(limits.memory_bytes)) {
    throw OutOfMemoryError("the kernel's scratch is more than the limit");
  }
  CachingAllocator& allocator = backend.allocator();
  allocator.reset_peaks();
  const std::int64_t before = allocator.counters().allocated;
  pass.run();  // warms up
  backend.synchronize();
  row.peak_bytes = allocator.counters().allocated_peak - before;
  row.max_error = pass.error();
  std::vector<double> product_samples;
  while (budget.next()) {
    product_samples.push_back(seconds_of(device, [&] { product.run(); }));
    pass.write_operands();
    row.samples_s.push_back(seconds_of(device, [&] { pass.run(); }));
  }
  const double products = s.pass == AttentionPass::forward ? 2.0 : 5.0;
  row.flops = products * 2.0 * static_cast<double>(s.head_dim * s.batch) * pass.computed_scores();
  row.product_rate = product.flops() / summary_of(product_samples).median;
}

}  // namespace

double AttentionBenchmarkRow::median_s() const { return summary_of(samples_s).median; }

AttentionBenchmarkRow measure_attention(const AttentionBenchmarkCase& setting,
                                        const AttentionBenchmarkLimits& limits,
                                        const MatrixProduct& product, Device device) {
  AttentionBenchmarkRow row{.setting = setting};
  try {
    measure(row, limits, product, device);
  } catch (const OutOfMemoryError&) {
    row = {.setting = setting, .refusal = "out of memory"};
  } catch (const UnsupportedError& error) {
    row = {.setting = setting, .refusal = error.what()};
  }
  return row;
}

}  // namespace portolan
