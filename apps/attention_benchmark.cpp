// SPDX-License-Identifier: Apache-2.0
#include "apps/attention_benchmark.hpp"

#include "apps/benchmark_samples.hpp"
#include "core/backend.hpp"
#include "core/error.hpp"
#include "core/ops.hpp"
#include "core/timer.hpp"

namespace portolan {
namespace {

/// Of the product's operands: large enough for a device's peak, small enough to run beside every
/// sample.
constexpr std::int64_t kHostProductExtent = 1536;
constexpr std::int64_t kGpuProductExtent = 8192;

void measure(AttentionBenchmarkRow& row, const AttentionBenchmarkLimits& limits,
             const MatrixProduct& product, Device device) {
  const AttentionBenchmarkCase& s = row.setting;
  const Stopwatch since_start;
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
  for (int i = 0; i < limits.repeat; ++i) {
    if (i > 0 && since_start.seconds() > limits.seconds) break;
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

MatrixProduct::MatrixProduct(DType dtype, Device device) {
  const std::int64_t extent = is_host(device) ? kHostProductExtent : kGpuProductExtent;
  const Shape square{extent, extent};
  x_ = random_operand(square, dtype, device, 0, "x");
  weight_ = backend_of(device).allocate_packed(extent, extent, dtype);
  ops::pack_rows(random_operand(square, dtype, device, 0, "weight"), 0, weight_);
  out_ = Tensor::empty(square, dtype, device);
  run();
}

void MatrixProduct::run() const { ops::matmul(x_, weight_, out_); }

double MatrixProduct::flops() const {
  const auto extent = static_cast<double>(x_.dim(0));
  return 2.0 * extent * extent * extent;
}

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
