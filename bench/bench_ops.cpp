// SPDX-License-Identifier: Apache-2.0
#include <benchmark/benchmark.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <oneapi/dnnl/dnnl.hpp>
#include <optional>
#include <string>
#include <vector>

#include "backends/compat/kokkos.hpp"
#include "backends/compat/kokkos_runtime.hpp"
#include "backends/compat/onednn.hpp"
#include "backends/openmp/openmp_backend.hpp"
#include "backends/serial/serial_backend.hpp"
#include "core/backend.hpp"
#include "core/samples.hpp"
#include "core/timer.hpp"
#include "tests/unit/op_list.hpp"

/// The list of operations at large sizes on the device `cpu`: GB/s of the bytes that must move and
/// their share of a copy measured in the same run; for products GFLOP/s beside oneDNN with a layout
/// of its own choice, called in turn with ours.
namespace portolan {
namespace {

using testing_support::OpCase;
using testing_support::OpInstance;
using testing_support::OpSize;

constexpr Device kCpu{DeviceKind::cpu, 0};

double seconds_of(const std::function<void()>& action) {
  const Stopwatch watch;
  action();
  return watch.seconds();
}

/// Bytes read and written per second by the C library's copy of arrays far larger than any cache
/// (which it stores past the cache), all threads at once. The best of several passes.
double copy_bandwidth() {
  constexpr std::int64_t kBytes = std::int64_t{512} << 20;
  const Tensor source = Tensor::empty({kBytes}, DType::u8, kCpu);
  const Tensor target = Tensor::empty({kBytes}, DType::u8, kCpu);
  const Kokkos::OpenMP space;
  const std::int64_t threads = backend_of(kCpu).concurrency();
  const std::int64_t share = kBytes / threads;
  std::memset(source.raw(), 1, static_cast<std::size_t>(kBytes));
  double best = 1e9;
  for (int pass = 0; pass < 10; ++pass) {
    best = std::min(best, seconds_of([&] {
                      Kokkos::parallel_for("copy", compat::Range<Kokkos::OpenMP>(space, 0, threads),
                                           [&](const std::int64_t thread) {
                                             std::memcpy(target.raw() + thread * share,
                                                         source.raw() + thread * share,
                                                         static_cast<std::size_t>(share));
                                           });
                    }));
  }
  return 2.0 * static_cast<double>(kBytes) / best;
}

void run_streaming(benchmark::State& state, const OpCase& op, const OpSize& size, DType dtype,
                   double bandwidth) {
  const OpInstance instance = op.make(size, dtype, kCpu);
  instance.run();
  std::vector<double> samples;
  for (auto _ : state) {
    samples.push_back(seconds_of(instance.run));
    state.SetIterationTime(samples.back());
  }
  const double rate = instance.bytes / summary_of(samples).median;
  state.counters["GB/s"] = rate * 1e-9;
  state.counters["of_copy"] = rate / bandwidth;
}

/// The same product by oneDNN with weights in the layout that it asks for.
class OneDnnProduct {
 public:
  /// `accumulate`: onto f32, as gradients of weights are summed.
  OneDnnProduct(const OpSize& size, DType dtype, bool accumulate)
      : engine_(dnnl::engine::kind::cpu, 0), stream_(engine_) {
    using Tag = dnnl::memory::format_tag;
    const auto type =
        dtype == DType::f32 ? dnnl::memory::data_type::f32 : dnnl::memory::data_type::bf16;
    dnnl::primitive_attr attributes;
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    if (accumulate) {
      dnnl::post_ops operations;
      operations.append_sum(1.0F);
      attributes.set_post_ops(operations);
    }
    const auto out_type = accumulate ? dnnl::memory::data_type::f32 : type;
    const auto description =
        compat::make_matmul_description(engine_, {{size.rows, size.columns}, type, Tag::ab},
                                        {{size.columns, size.extent}, type, Tag::any}, {},
                                        {{size.rows, size.extent}, out_type, Tag::ab}, attributes);
    product_ = dnnl::matmul(description);
    arguments_ = {{DNNL_ARG_SRC, make(description.src_desc())},
                  {DNNL_ARG_WEIGHTS, make(description.weights_desc())},
                  {DNNL_ARG_DST, make(description.dst_desc())},
                  {DNNL_ARG_SCRATCHPAD, make(description.scratchpad_desc())}};
  }

  void run() {
    product_.execute(stream_, arguments_);
    stream_.wait();
  }

 private:
  dnnl::memory make(const dnnl::memory::desc& description) {
    const auto bytes = static_cast<std::int64_t>(description.get_size());
    storage_.push_back(Tensor::empty({bytes}, DType::u8, kCpu));
    std::memset(storage_.back().raw(), 0, static_cast<std::size_t>(bytes));
    return dnnl::memory(description, engine_, storage_.back().raw());
  }

  dnnl::engine engine_;
  dnnl::stream stream_;
  dnnl::matmul product_;
  std::vector<Tensor> storage_;
  std::unordered_map<int, dnnl::memory> arguments_;
};

void run_product(benchmark::State& state, const OpCase& op, const OpSize& size, DType dtype,
                 double bandwidth) {
  const OpInstance instance = op.make(size, dtype, kCpu);
  // Older CPUs have products in f32 only.
  std::optional<OneDnnProduct> peer;
  try {
    peer.emplace(size, dtype, op.name.ends_with("accumulate_f32"));
  } catch (const dnnl::error&) {
    state.counters["onednn_GFLOP/s"] = 0.0;
  }
  instance.run();
  if (peer) peer->run();
  std::vector<double> ours;
  std::vector<double> theirs;
  for (auto _ : state) {
    ours.push_back(seconds_of(instance.run));
    if (peer) theirs.push_back(seconds_of([&] { peer->run(); }));
    state.SetIterationTime(ours.back());
  }
  const auto best = [](const std::vector<double>& samples) {
    return *std::min_element(samples.begin(), samples.end());
  };
  state.counters["GFLOP/s"] = instance.flops / summary_of(ours).median * 1e-9;
  state.counters["best"] = instance.flops / best(ours) * 1e-9;
  if (peer) {
    state.counters["onednn_GFLOP/s"] = instance.flops / summary_of(theirs).median * 1e-9;
    state.counters["onednn_best"] = instance.flops / best(theirs) * 1e-9;
  }
  state.counters["of_copy"] = instance.bytes / summary_of(ours).median / bandwidth;
}

void register_all(double bandwidth) {
  for (const OpCase& op : testing_support::op_list()) {
    for (const DType dtype : op.dtypes) {
      if (dtype == DType::f16) continue;
      for (const OpSize& size : op.large_sizes) {
        const std::string name = fmt::format("{}/{}/{}x{}x{}", op.name, name_of(dtype), size.rows,
                                             size.columns, size.extent);
        const bool product = op.name.starts_with("matmul") || op.name.starts_with("product");
        benchmark::RegisterBenchmark(
            name.c_str(),
            [&op, size, dtype, bandwidth, product](benchmark::State& state) {
              (product ? run_product : run_streaming)(state, op, size, dtype, bandwidth);
            })
            ->UseManualTime()
            ->Unit(benchmark::kMicrosecond);
      }
    }
  }
}

}  // namespace
}  // namespace portolan

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  const portolan::KokkosRuntime kokkos({});
  portolan::register_backend(portolan::make_serial_backend());
  portolan::register_backend(portolan::make_openmp_backend());
  const double bandwidth = portolan::copy_bandwidth();
  benchmark::AddCustomContext("device", portolan::backend_of(portolan::kCpu).description());
  benchmark::AddCustomContext("copy",
                              fmt::format("{:.1f} GB/s read and written", bandwidth * 1e-9));
  portolan::register_all(bandwidth);
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  portolan::unregister_backends();
  return 0;
}
