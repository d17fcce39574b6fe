// SPDX-License-Identifier: Apache-2.0
/// Times the attention kernels of the CPU beside oneDNN's matrix product, interleaved in one run:
///
///   bench_attention --lengths 256,512,1024,2048,4096 --heads 32 --head-dim 128 --dtypes f32,bf16
///   bench_attention --pass backward --lengths 1024,2048,4096
///   bench_attention --query-tokens 1 --lengths 8192,32768 --heads 8 --kv-heads 1
///
/// prints per dtype, length and method the median milliseconds with their extremes, useful GFLOP/s
/// (scores that the mask hides do not count; the backward pass has five products where the forward
/// pass has two), the share of the product's rate, and the GB/s at which keys and values are read
/// if they are read once, which is what decoding is measured by. Before each
/// sample q, k and v are written anew, as the layer before does, since the product has filled the
/// caches. With --processor-time samples count the process' time on processors instead of time
/// passed, which on a machine shared with others says more, and for one thread the same.

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstring>
#include <ctime>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "attention/attention.hpp"
#include "backends/compat/onednn.hpp"
#include "core/error.hpp"
#include "core/samples.hpp"
#include "core/tensor.hpp"
#include "runtime/runtime.hpp"

namespace portolan {
namespace {

struct Options {
  std::vector<std::int64_t> lengths{256, 512, 1024, 2048, 4096};
  std::vector<std::string> dtypes{"f32", "bf16"};
  std::vector<std::string> methods{"flash"};
  std::int64_t batch = 1;
  std::int64_t heads = 32;
  std::int64_t key_heads = 0;
  std::int64_t head_dim = 128;
  std::int64_t query_tokens = 0;
  std::int64_t window = 0;
  float dropout = 0.0F;
  std::string pass = "forward";
  bool full = false;
  bool separate = false;
  int repeat = 9;
  int threads = 0;
  bool processor_time = false;
};

double now(const Options& options) {
  timespec time{};
  clock_gettime(options.processor_time ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

double seconds(const Options& options, auto&& function) {
  const double begin = now(options);
  function();
  return now(options) - begin;
}

void randomise(const Tensor& tensor) {
  std::mt19937 generator(7);
  for (std::int64_t i = 0; i < tensor.elements(); ++i) {
    const float value = static_cast<float>(generator() >> 8) * 0x1p-23F - 1.0F;
    if (tensor.dtype() == DType::f32) {
      tensor.data<float>()[i] = value;
    } else if (tensor.dtype() == DType::bf16) {
      tensor.data<BFloat16>()[i] = from_float<BFloat16>(value);
    } else {
      tensor.data<Float16>()[i] = from_float<Float16>(value);
    }
  }
}

/// oneDNN's product of [1024, 4096] with a weight [4096, 4096] in its own layout.
class Product {
 public:
  static constexpr dnnl::memory::dim kRows = 1024;
  static constexpr dnnl::memory::dim kColumns = 4096;

  explicit Product(DType dtype) : engine_(dnnl::engine::kind::cpu, 0), stream_(engine_) {
    using dnnl::memory;
    const auto type = dtype == DType::bf16 ? memory::data_type::bf16 : memory::data_type::f32;
    const memory::desc rows({kRows, kColumns}, type, memory::format_tag::ab);
    const memory::desc weight({kColumns, kColumns}, type, memory::format_tag::any);
    const auto description =
        compat::make_matmul_description(engine_, rows, weight, {}, rows, dnnl::primitive_attr());
    matmul_ = dnnl::matmul(description);
    source_ = memory(rows, engine_);
    weight_ = memory(description.weights_desc(), engine_);
    out_ = memory(rows, engine_);
    for (const memory* operand : {&source_, &weight_}) {
      const auto bytes = static_cast<std::int64_t>(operand->get_desc().get_size());
      randomise(Tensor::borrow(operand->get_data_handle(),
                               {bytes / static_cast<std::int64_t>(size_of(dtype))}, dtype,
                               {DeviceKind::cpu, 0}));
    }
  }

  void operator()() {
    matmul_.execute(stream_,
                    {{DNNL_ARG_SRC, source_}, {DNNL_ARG_WEIGHTS, weight_}, {DNNL_ARG_DST, out_}});
    stream_.wait();
  }

  [[nodiscard]] static double flops() { return 2.0 * kRows * kColumns * kColumns; }

 private:
  dnnl::engine engine_;
  dnnl::stream stream_;
  dnnl::matmul matmul_;
  dnnl::memory source_;
  dnnl::memory weight_;
  dnnl::memory out_;
};

/// A problem on random operands, and room for its results.
class Workload {
 public:
  Workload(const Options& options, DType dtype, std::int64_t length)
      : backward_(options.pass == "backward") {
    const std::int64_t key_heads = options.key_heads > 0 ? options.key_heads : options.heads;
    const std::int64_t queries = options.query_tokens > 0 ? options.query_tokens : length;
    const std::int64_t q_width = options.heads * options.head_dim;
    const std::int64_t k_width = key_heads * options.head_dim;
    // One buffer [batch, tokens, all heads], as a fused projection leaves it, or three.
    const std::int64_t width = q_width + 2 * k_width;
    operands_ = Tensor::empty({options.batch, length, width}, dtype, kDevice);
    original_ = Tensor::empty(operands_.shape(), dtype, kDevice);
    randomise(original_);
    restore();
    if (options.separate) {
      const auto dense = [&](std::int64_t tokens, std::int64_t heads, std::int64_t begin) {
        const auto offset =
            static_cast<std::size_t>(begin * options.batch * length) * size_of(dtype);
        return Tensor::borrow(operands_.raw() + offset,
                              {options.batch, tokens, heads, options.head_dim}, dtype, kDevice);
      };
      problem_.q = dense(queries, options.heads, 0);
      problem_.k = dense(length, key_heads, q_width);
      problem_.v = dense(length, key_heads, q_width + k_width);
    } else {
      const auto part = [&](std::int64_t begin, std::int64_t heads) {
        return operands_.slice(2, begin, begin + heads * options.head_dim).split_last(heads);
      };
      problem_.q = part(0, options.heads).slice(1, 0, queries);
      problem_.k = part(q_width, key_heads);
      problem_.v = part(q_width + k_width, key_heads);
    }
    problem_.mask.causal = !options.full;
    problem_.mask.window = options.window;
    problem_.scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(options.head_dim)));
    problem_.dropout.probability = options.dropout;
    const auto empty = [&](const Tensor& like) {
      return Tensor::empty(like.shape(), dtype, kDevice);
    };
    out_ = empty(problem_.q);
    if (!backward_) return;
    const Shape rows{options.batch, options.heads, queries};
    gradients_ = {.grad_out = empty(problem_.q),
                  .log_sum_exp = Tensor::empty(rows, DType::f32, kDevice),
                  .delta = Tensor::empty(rows, DType::f32, kDevice),
                  .dq = empty(problem_.q),
                  .dk = empty(problem_.k),
                  .dv = empty(problem_.k)};
    randomise(gradients_.grad_out);
    attention_forward(problem_, out_, gradients_.log_sum_exp);
    attention_delta(out_, gradients_.grad_out, gradients_.delta);
  }

  /// Writes q, k and v anew.
  void restore() const { std::memcpy(operands_.raw(), original_.raw(), original_.bytes()); }

  void run(AttentionMethod method) const {
    if (backward_) {
      attention_backward(problem_, gradients_, method);
    } else {
      attention_forward(problem_, out_, {}, method);
    }
  }

  [[nodiscard]] double flops() const {
    const double products = backward_ ? 5.0 : 2.0;
    return 2.0 * products * static_cast<double>(problem_.q.dim(3)) *
           static_cast<double>(problem_.q.dim(0) * problem_.q.dim(2)) *
           static_cast<double>(visible_scores(problem_.mask, problem_.q.dim(1), problem_.k.dim(1)));
  }
  [[nodiscard]] double key_bytes() const { return 2.0 * static_cast<double>(problem_.k.bytes()); }

 private:
  static constexpr Device kDevice{DeviceKind::cpu, 0};

  bool backward_;
  Tensor operands_;
  Tensor original_;
  AttentionProblem problem_;
  Tensor out_;
  AttentionGradients gradients_;
};

void measure(const Options& options, DType dtype, std::int64_t length, Product& product) {
  const Workload workload(options, dtype, length);
  std::vector<double> product_samples;
  std::vector<std::vector<double>> samples(options.methods.size());
  for (int round = -1; round < options.repeat; ++round) {  // the first one warms up
    const double product_seconds = seconds(options, product);
    if (round >= 0) product_samples.push_back(product_seconds);
    for (std::size_t m = 0; m < options.methods.size(); ++m) {
      const AttentionMethod method = attention_method_from_name(options.methods[m]);
      workload.restore();
      const double taken = seconds(options, [&] { workload.run(method); });
      if (round >= 0) samples[m].push_back(taken);
    }
  }
  const double product_rate = Product::flops() / summary_of(product_samples).median * 1e-9;
  for (std::size_t m = 0; m < options.methods.size(); ++m) {
    const SampleSummary taken = summary_of(samples[m]);
    const double rate = workload.flops() / taken.median * 1e-9;
    fmt::print(
        "{:<5} {:>6}  {:<16} {:>9.3f} [{:>9.3f}, {:>9.3f}] {:>8.1f} {:>8.1f} {:>6.1f} % "
        "{:>7.2f}\n",
        name_of(dtype), length, options.methods[m], taken.median * 1e3, taken.minimum * 1e3,
        taken.maximum * 1e3, rate, product_rate, 100.0 * rate / product_rate,
        workload.key_bytes() / taken.median * 1e-9);
  }
}

int run(int argument_count, char** arguments) {
  Options options;
  CLI::App app("Times attention kernels beside oneDNN's matrix product");
  app.add_option("--lengths", options.lengths, "tokens")->delimiter(',');
  app.add_option("--dtypes", options.dtypes, "f32, bf16, f16")->delimiter(',');
  app.add_option("--methods", options.methods, "flash, standard, window, ...")->delimiter(',');
  app.add_option("--pass", options.pass)->check(CLI::IsMember({"forward", "backward"}));
  app.add_option("--batch", options.batch);
  app.add_option("--heads", options.heads, "query heads");
  app.add_option("--kv-heads", options.key_heads, "key/value heads (default: as many)");
  app.add_option("--head-dim", options.head_dim);
  app.add_option("--query-tokens", options.query_tokens,
                 "the last tokens only, as in decoding (default: all)");
  app.add_option("--window", options.window, "sliding window");
  app.add_option("--dropout", options.dropout, "probability");
  app.add_flag("--full", options.full, "no causal mask");
  app.add_flag("--separate", options.separate, "q, k and v dense instead of one fused buffer");
  app.add_option("--repeat", options.repeat, "samples");
  app.add_option("--threads", options.threads);
  app.add_flag("--processor-time", options.processor_time, "not counting time off the processor");
  CLI11_PARSE(app, argument_count, arguments);

  const Runtime runtime({.device = DeviceKind::cpu, .threads = options.threads});
  fmt::print("{}, batch {}, {} query heads, {} key heads, head_dim {}, {} threads, {} samples\n",
             options.pass, options.batch, options.heads,
             options.key_heads > 0 ? options.key_heads : options.heads, options.head_dim,
             runtime.threads(), options.repeat);
  fmt::print(
      "dtype tokens  method           ms median [min, max]            GFLOP/s  product  share "
      "KV GB/s\n");
  for (const std::string& name : options.dtypes) {
    const DType dtype = dtype_from_name(name);
    Product product(dtype);
    for (const std::int64_t length : options.lengths) measure(options, dtype, length, product);
  }
  return 0;
}

}  // namespace
}  // namespace portolan

int main(int argument_count, char** arguments) {
  try {
    return portolan::run(argument_count, arguments);
  } catch (const portolan::Error& error) {
    fmt::print(stderr, "{}\n", error.what());
    return error.exit_code();
  }
}
