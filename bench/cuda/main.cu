// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "attention/cuda/decode_attention.hpp"
#include "attention/cuda/decode_plan.hpp"
#include "attention/cuda/flash_attention.hpp"
#include "bench/cuda/launchers.hpp"
#include "bench/cuda/limits.hpp"
#include "bench/cuda/timing.cuh"
#include "tests/cuda/reference.cuh"

/// Attention on this GPU beside what the GPU does at best: 16384 tokens in all, hidden size 2048,
/// bf16, dense operands, random values. FLOPs are 4 per score and element of head_dim forward, 10
/// backward, half of the scores if causal; backward includes the sum of out * grad_out. Prints one
/// table, and comma-separated values to a file if one is named.
namespace portolan::cuda_bench {
namespace {

using cuda::AttentionElement;
using cuda_testing::DeviceArray;

constexpr std::int64_t kTokens = 16384;
constexpr std::int64_t kHidden = 2048;
/// More than any cache holds, so that every run reads its operands from memory.
constexpr int kSets = 2;

/// One set of operands of a PortolanAttention.
class OperandSet {
 public:
  OperandSet(const PortolanAttention& shape, std::size_t workspace_bytes, std::uint64_t seed)
      : attention_(shape), workspace_(workspace_bytes) {
    const auto elements = [&](std::int64_t heads) {
      return static_cast<std::size_t>(shape.batch * shape.tokens * heads * shape.head_dim);
    };
    for (const std::int64_t heads : {shape.heads, shape.key_heads, shape.key_heads, shape.heads,
                                     shape.heads, shape.heads, shape.key_heads, shape.key_heads}) {
      arrays_.emplace_back(elements(heads));
    }
    for (std::size_t i = 0; i < arrays_.size(); ++i) {
      cuda_testing::fill_random(arrays_[i].data(), arrays_[i].size(), AttentionElement::bf16, 1.0F,
                                seed + i);
    }
    const auto rows = static_cast<std::size_t>(shape.batch * shape.heads * shape.tokens);
    log_sum_exp_ = DeviceArray<float>(rows);
    delta_ = DeviceArray<float>(rows);
    attention_.q = arrays_[0].data();
    attention_.k = arrays_[1].data();
    attention_.v = arrays_[2].data();
    attention_.out = arrays_[3].data();
    attention_.grad_out = arrays_[4].data();
    attention_.dq = arrays_[5].data();
    attention_.dk = arrays_[6].data();
    attention_.dv = arrays_[7].data();
    attention_.log_sum_exp = log_sum_exp_.data();
    attention_.delta = delta_.data();
    attention_.workspace = workspace_.data();
  }

  [[nodiscard]] const PortolanAttention& attention() const { return attention_; }

 private:
  PortolanAttention attention_;
  std::vector<DeviceArray<std::uint16_t>> arrays_;
  DeviceArray<float> log_sum_exp_;
  DeviceArray<float> delta_;
  DeviceArray<std::uint8_t> workspace_;
};

struct Limits {
  double product_rate = 0.0;
  double copy_rate = 0.0;
};

class Table {
 public:
  explicit Table(std::FILE* csv) : csv_(csv) {
    std::printf("%-10s %-8s %-6s %4s %7s %6s %12s %10s %8s %22s\n", "kernel", "pass", "mask", "D",
                "length", "batch", "median ms", "rate", "of limit", "min - max ms");
    if (csv_ != nullptr) {
      std::fprintf(csv_,
                   "kernel,pass,mask,head_dim,length,batch,median_ms,min_ms,max_ms,samples,rate,"
                   "unit,share_of_limit\n");
    }
  }
  void row(const char* kernel, const char* pass, const char* mask, std::int64_t head_dim,
           std::int64_t length, std::int64_t batch, const Times& times, double amount,
           const char* unit, double scale, double limit) const {
    const double rate = amount / times.median;
    std::printf("%-10s %-8s %-6s %4lld %7lld %6lld %12.4f %6.0f %s %7.1f%% %10.4f - %.4f\n", kernel,
                pass, mask, static_cast<long long>(head_dim), static_cast<long long>(length),
                static_cast<long long>(batch), times.median * 1e3, rate * scale, unit,
                100.0 * rate / limit, times.least * 1e3, times.most * 1e3);
    std::fflush(stdout);
    if (csv_ == nullptr) return;
    std::fprintf(csv_, "%s,%s,%s,%lld,%lld,%lld,%.6f,%.6f,%.6f,%d,%.3f,%s,%.4f\n", kernel, pass,
                 mask, static_cast<long long>(head_dim), static_cast<long long>(length),
                 static_cast<long long>(batch), times.median * 1e3, times.least * 1e3,
                 times.most * 1e3, times.samples, rate * scale, unit, rate / limit);
  }

 private:
  std::FILE* csv_;
};

void attention_rows(const Table& table, const Limits& limits, int architecture,
                    std::int64_t head_dim, bool causal, std::int64_t length) {
  PortolanAttention shape{};
  shape.architecture = architecture;
  shape.is_bf16 = 1;
  shape.causal = causal ? 1 : 0;
  shape.batch = kTokens / length;
  shape.tokens = length;
  shape.heads = kHidden / head_dim;
  shape.key_heads = shape.heads;
  shape.head_dim = head_dim;
  const std::int64_t workspace = portolan_attention_workspace(&shape);
  if (workspace < 0) return;
  std::vector<OperandSet> sets;
  for (int i = 0; i < kSets; ++i) {
    sets.emplace_back(shape, static_cast<std::size_t>(workspace),
                      static_cast<std::uint64_t>(100 * i + 1));
  }
  const double scores = static_cast<double>(kTokens) * static_cast<double>(length) *
                        static_cast<double>(shape.heads) * (causal ? 0.5 : 1.0);
  const char* name = architecture == 90 ? "sm90" : "sm80";
  const char* mask = causal ? "causal" : "full";
  const auto run = [&](const char* pass, int (*launch)(const PortolanAttention*),
                       double operations) {
    const Times times = measure([&](int i) {
      check(
          static_cast<cudaError_t>(launch(&sets[static_cast<std::size_t>(i % kSets)].attention())),
          "starting attention");
    });
    table.row(name, pass, mask, head_dim, length, shape.batch, times,
              operations * scores * static_cast<double>(head_dim), "TF/s", 1e-12,
              limits.product_rate);
  };
  run("forward", portolan_attention_forward, 4.0);
  run("backward", portolan_attention_backward, 10.0);
}

/// One query for each of `batch` sequences, 32 query heads on 8 key/value heads.
void decode_row(const Table& table, const Limits& limits, std::int64_t batch,
                std::int64_t key_tokens, std::int64_t head_dim) {
  cuda::AttentionShape shape{.batch = batch,
                             .query_tokens = 1,
                             .key_tokens = key_tokens,
                             .heads = 32,
                             .key_heads = 8,
                             .head_dim = head_dim,
                             .scale = 1.0F / std::sqrt(static_cast<float>(head_dim))};
  const auto cache = static_cast<std::size_t>(batch * key_tokens * shape.key_heads * head_dim);
  const auto queries = static_cast<std::size_t>(batch * shape.heads * head_dim);
  // As many sets as take 256 MB, so that no cache holds them from one run to the next.
  const std::size_t sets = std::min<std::size_t>(64, 1 + (std::size_t{256} << 20) / (4 * cache));
  const auto random = [](std::size_t size, std::uint64_t seed) {
    DeviceArray<std::uint16_t> array(size);
    cuda_testing::fill_random(array.data(), size, AttentionElement::bf16, 1.0F, seed);
    return array;
  };
  const auto k = random(cache * sets, 1);
  const auto v = random(cache * sets, 2);
  const auto q = random(queries, 3);
  const DeviceArray<std::uint16_t> out(queries);
  const DeviceArray<std::uint8_t> workspace(cuda::decode_workspace_bytes(shape));
  const auto strides = [&](std::int64_t heads, std::int64_t tokens) {
    return cuda::AttentionStrides{
        .batch = tokens * heads * head_dim, .token = heads * head_dim, .head = head_dim};
  };
  const Times times = measure([&](int i) {
    const std::size_t set = static_cast<std::size_t>(i) % sets;
    const cuda::AttentionForwardArguments arguments{
        .shape = shape,
        .q = q.data(),
        .k = k.data() + set * cache,
        .v = v.data() + set * cache,
        .out = out.data(),
        .q_strides = strides(shape.heads, 1),
        .k_strides = strides(shape.key_heads, key_tokens),
        .v_strides = strides(shape.key_heads, key_tokens),
        .out_strides = strides(shape.heads, 1)};
    check(cuda::attention_decode(arguments, workspace.data(), nullptr), "starting decoding");
  });
  table.row("decode", "forward", "causal", head_dim, key_tokens, batch, times,
            static_cast<double>(cuda::decode_bytes(shape)), "GB/s", 1e-9, limits.copy_rate);
}

int run(bool quick, std::FILE* csv) {
  int device = 0;
  cudaDeviceProp properties{};
  check(cudaGetDevice(&device), "asking for the GPU");
  check(cudaGetDeviceProperties(&properties, device), "asking for the GPU's properties");
  const Limits limits{.product_rate = measure_product_rate(), .copy_rate = measure_copy_rate()};
  std::printf("%s; limits measured now: bf16 product by cuBLASLt %.0f TFLOP/s, copy %.0f GB/s\n",
              properties.name, limits.product_rate * 1e-12, limits.copy_rate * 1e-9);
  const Table table(csv);
  std::vector<int> architectures{80};
  if (properties.major == 9 && properties.minor == 0)
    architectures.insert(architectures.begin(), 90);
  const std::vector<std::int64_t> lengths =
      quick ? std::vector<std::int64_t>{2048, 8192}
            : std::vector<std::int64_t>{512, 1024, 2048, 4096, 8192, 16384};
  for (const int architecture : architectures) {
    for (const std::int64_t head_dim : {128, 64}) {
      for (const bool causal : {true, false}) {
        for (const std::int64_t length : lengths) {
          attention_rows(table, limits, architecture, head_dim, causal, length);
        }
      }
    }
  }
  for (const std::int64_t head_dim : {128, 64}) {
    for (const std::int64_t batch : {1, 8, 64}) {
      for (const std::int64_t key_tokens : {1024, 8192, 65536}) {
        if (batch * key_tokens <= 64 * 8192) decode_row(table, limits, batch, key_tokens, head_dim);
      }
    }
  }
  return 0;
}

}  // namespace
}  // namespace portolan::cuda_bench

int main(int count, char** arguments) {
  bool quick = false;
  std::FILE* csv = nullptr;
  for (int i = 1; i < count; ++i) {
    if (std::strcmp(arguments[i], "--quick") == 0) {
      quick = true;
    } else if (std::strcmp(arguments[i], "--csv") == 0 && i + 1 < count && csv == nullptr) {
      csv = std::fopen(arguments[++i], "w");
      if (csv == nullptr) {
        std::fprintf(stderr, "bench: %s cannot be written\n", arguments[i]);
        return 2;
      }
    } else {
      std::fprintf(stderr, "usage: bench [--quick] [--csv FILE]\n");
      return 2;
    }
  }
  const int status = portolan::cuda_bench::run(quick, csv);
  if (csv != nullptr) std::fclose(csv);
  return status;
}
