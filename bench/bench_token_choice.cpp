// SPDX-License-Identifier: Apache-2.0
#include <benchmark/benchmark.h>
#include <fmt/format.h>

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "backends/compat/kokkos_runtime.hpp"
#include "backends/openmp/openmp_backend.hpp"
#include "core/backend.hpp"
#include "core/ops.hpp"
#include "core/samples.hpp"
#include "core/timer.hpp"
#include "tests/reference/sampling_reference.hpp"

/// The choice of one token from a vocabulary's logits on the device `cpu`, beside one by sorting in
/// f64 (the unit tests' reference), called in turn.
namespace portolan {
namespace {

constexpr Device kCpu{DeviceKind::cpu, 0};

/// About normal, with the deviation that logits of language models have.
Tensor make_logits(std::int64_t vocabulary) {
  constexpr int kTerms = 12;  // of variance 1/3 each
  Tensor logits = Tensor::empty({1, vocabulary}, DType::f32, kCpu);
  for (std::int64_t id = 0; id < vocabulary; ++id) {
    float sum = 0.0F;
    for (int term = 0; term < kTerms; ++term) {
      sum += symmetric_uniform({.seed = 1, .stream = 1},
                               static_cast<std::uint64_t>(id * kTerms + term));
    }
    logits.data<float>()[id] = 1.25F * sum;
  }
  return logits;
}

struct Setting {
  const char* name;
  TokenChoice choice;
};

constexpr std::array kSettings = {
    Setting{"greedy", {}},
    Setting{"temperature", {.temperature = 0.8}},
    Setting{"top_k_50", {.temperature = 0.8, .top_k = 50}},
    Setting{"top_p_0.9", {.temperature = 0.8, .top_p = 0.9}},
    Setting{"top_k_50_top_p_0.9", {.temperature = 0.8, .top_k = 50, .top_p = 0.9}},
};

/// Greedy choices have no distribution to sort.
double sorting_seconds(const Tensor& logits, const TokenChoice& choice) {
  const Stopwatch watch;
  const reference::TokenDistribution distribution = reference::token_distribution(
      {logits.data<float>(), static_cast<std::size_t>(logits.dim(1))},
      {.temperature = choice.temperature, .top_k = choice.top_k, .top_p = choice.top_p});
  benchmark::DoNotOptimize(reference::draw(distribution, 0.5));
  return watch.seconds();
}

void run(benchmark::State& state, std::int64_t vocabulary, const TokenChoice& choice) {
  const Tensor logits = make_logits(vocabulary);
  const Tensor sequences = Tensor::empty({1}, DType::i32, kCpu);
  const Tensor ids = Tensor::empty({1}, DType::i32, kCpu);
  sequences.data<std::int32_t>()[0] = 0;
  std::vector<double> ours;
  std::vector<double> sorting;
  for (auto _ : state) {
    const Stopwatch watch;
    ops::choose_tokens(logits, {}, choice, sequences, std::ssize(ours), ids);
    ours.push_back(watch.seconds());
    state.SetIterationTime(ours.back());
    if (choice.temperature > 0.0 && sorting.size() < 20) {
      sorting.push_back(sorting_seconds(logits, choice));
    }
  }
  state.counters["median_us"] = summary_of(ours).median * 1e6;
  if (!sorting.empty()) state.counters["sorting_us"] = summary_of(sorting).median * 1e6;
}

}  // namespace
}  // namespace portolan

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  const portolan::KokkosRuntime kokkos({});
  portolan::register_backend(portolan::make_openmp_backend());
  benchmark::AddCustomContext("device", portolan::backend_of(portolan::kCpu).description());
  for (const std::int64_t vocabulary : {32000, 128256}) {
    for (const portolan::Setting& setting : portolan::kSettings) {
      benchmark::RegisterBenchmark(fmt::format("{}/{}", setting.name, vocabulary).c_str(),
                                   [&setting, vocabulary](benchmark::State& state) {
                                     portolan::run(state, vocabulary, setting.choice);
                                   })
          ->UseManualTime()
          ->Unit(benchmark::kMicrosecond);
    }
  }
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  portolan::unregister_backends();
  return 0;
}
