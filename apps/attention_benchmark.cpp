// SPDX-License-Identifier: Apache-2.0
#include "apps/attention_benchmark.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <memory>

#include "apps/attention_error.hpp"
#include "apps/benchmark_samples.hpp"
#include "attention/block_patterns.hpp"
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

/// The block-sparse pattern: a few blocks around the diagonal, and every so many of the others.
constexpr std::int64_t kNeighbours = 2;
constexpr std::int64_t kBlockStride = 8;

std::shared_ptr<const BlockMap> block_pattern(const AttentionBenchmarkCase& setting) {
  const BlockGrid grid{.heads = setting.heads,
                       .query_tokens = setting.length,
                       .key_tokens = setting.length,
                       .block_queries = setting.block,
                       .block_keys = setting.block};
  return std::make_shared<const BlockMap>(
      united(local_blocks(grid, kNeighbours), strided_blocks(grid, kBlockStride)));
}

/// Scores that a causal mask with a window or blocks leaves, of all heads of a batch entry.
double computed_scores(const AttentionMask& mask, std::int64_t heads, std::int64_t length) {
  if (!mask.blocks) {
    return static_cast<double>(heads) * static_cast<double>(visible_scores(mask, length, length));
  }
  const BlockMap& map = *mask.blocks;
  std::int64_t scores = 0;
  for (std::int64_t head = 0; head < heads; ++head) {
    for (std::int64_t query = 0; query < length; ++query) {
      const auto row = static_cast<std::size_t>(head * map.block_rows + query / map.block_queries);
      for (auto at = map.row_begin[row]; at < map.row_begin[row + 1]; ++at) {
        const std::int64_t begin = map.columns[static_cast<std::size_t>(at)] * map.block_keys;
        scores += std::clamp<std::int64_t>(query + 1 - begin, 0, map.block_keys);
      }
    }
  }
  return static_cast<double>(scores);
}

Tensor random_tensor(const Shape& shape, DType dtype, Device device, const char* name) {
  const Tensor tensor = Tensor::empty(shape, dtype, device);
  const std::int64_t columns = shape[shape.rank() - 1];
  ops::random_uniform(tensor.view({tensor.elements() / columns, columns}), random_key(0, name),
                      {0, 0, columns}, 0.0F, 1.0F);
  return tensor;
}

Tensor empty_like(const Tensor& tensor) {
  return Tensor::empty(tensor.shape(), tensor.dtype(), tensor.device());
}

/// The tensors of a case and the pass over them.
class Pass {
 public:
  Pass(const AttentionBenchmarkCase& setting, Device device) : setting_(setting) {
    const AttentionBenchmarkCase& s = setting;
    const Shape query_shape{s.batch, s.length, s.heads, s.head_dim};
    const Shape key_shape{s.batch, s.length, s.key_heads, s.head_dim};
    originals_ = {random_tensor(query_shape, s.dtype, device, "q"),
                  random_tensor(key_shape, s.dtype, device, "k"),
                  random_tensor(key_shape, s.dtype, device, "v")};
    problem_ = {.q = empty_like(originals_[0]),
                .k = empty_like(originals_[1]),
                .v = empty_like(originals_[2]),
                .mask = {},
                .scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(s.head_dim)))};
    if (s.method == AttentionMethod::window) problem_.mask.window = s.window;
    if (s.method == AttentionMethod::block_sparse) {
      problem_.mask.blocks = block_pattern(s);
    }
    write_operands();
    out_ = empty_like(problem_.q);
    log_sum_exp_ = Tensor::empty({s.batch, s.heads, s.length}, DType::f32, device);
    if (s.pass == AttentionPass::backward) prepare_backward(device);
  }

  [[nodiscard]] const AttentionProblem& problem() const { return problem_; }

  [[nodiscard]] std::size_t workspace_bytes() const {
    return attention_choice(problem_, setting_.pass, setting_.method).workspace_bytes;
  }

  /// As the layer before does: else samples after others would find operands in other caches.
  void write_operands() const {
    ops::copy(originals_[0], problem_.q);
    ops::copy(originals_[1], problem_.k);
    ops::copy(originals_[2], problem_.v);
  }

  void run() const {
    if (setting_.pass == AttentionPass::forward) {
      attention_forward(problem_, out_, log_sum_exp_, setting_.method);
    } else {
      attention_backward(problem_, gradients_, setting_.method);
    }
  }

  [[nodiscard]] double error() const {
    const AttentionErrorSample sample(problem_);
    return setting_.pass == AttentionPass::forward ? sample.forward_error(out_)
                                                   : sample.backward_error(gradients_);
  }

 private:
  /// The forward pass that the gradients belong to, by whichever kernel is first.
  void prepare_backward(Device device) {
    const Tensor exact = Tensor::empty(problem_.q.shape(), DType::f32, device);
    attention_forward(problem_, exact, log_sum_exp_);
    gradients_ = {
        .grad_out = random_tensor(problem_.q.shape(), problem_.q.dtype(), device, "grad_out"),
        .log_sum_exp = log_sum_exp_,
        .delta = empty_like(log_sum_exp_),
        .dq = empty_like(problem_.q),
        .dk = empty_like(problem_.k),
        .dv = empty_like(problem_.v)};
    attention_delta(exact, gradients_.grad_out, gradients_.delta);
  }

  AttentionBenchmarkCase setting_;
  std::array<Tensor, 3> originals_;
  AttentionProblem problem_;
  Tensor out_;
  Tensor log_sum_exp_;
  AttentionGradients gradients_;
};

double seconds_of(Backend& backend, const std::function<void()>& work) {
  backend.synchronize();
  const Stopwatch stopwatch;
  work();
  backend.synchronize();
  return stopwatch.seconds();
}

void measure(AttentionBenchmarkRow& row, const AttentionBenchmarkLimits& limits,
             const MatrixProduct& product, Device device) {
  const AttentionBenchmarkCase& s = row.setting;
  const Stopwatch since_start;
  const Pass pass(s, device);
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
    product_samples.push_back(seconds_of(backend, [&] { product.run(); }));
    pass.write_operands();
    row.samples_s.push_back(seconds_of(backend, [&] { pass.run(); }));
  }
  const double products = s.pass == AttentionPass::forward ? 2.0 : 5.0;
  row.flops = products * 2.0 * static_cast<double>(s.head_dim * s.batch) *
              computed_scores(pass.problem().mask, s.heads, s.length);
  row.product_rate = product.flops() / summary_of(product_samples).median;
}

}  // namespace

double AttentionBenchmarkRow::median_s() const { return summary_of(samples_s).median; }

MatrixProduct::MatrixProduct(DType dtype, Device device) {
  const std::int64_t extent = is_host(device) ? kHostProductExtent : kGpuProductExtent;
  const Shape square{extent, extent};
  x_ = random_tensor(square, dtype, device, "x");
  weight_ = backend_of(device).allocate_packed(extent, extent, dtype);
  ops::pack_rows(random_tensor(square, dtype, device, "weight"), 0, weight_);
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
