// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
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
/// backward, half of the scores if causal; backward includes the sum of out * grad_out. Prints a
/// line for each kernel with rates and their shares of the limits, and all figures as
/// comma-separated values to a file if one is named.
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

/// What is measured of one shape.
struct Measurement {
  const char* kernel = "";
  const char* pass = "";
  const char* mask = "";
  std::int64_t head_dim = 0;
  std::int64_t length = 0;
  std::int64_t batch = 0;
  Times times;
  double amount = 0.0;  ///< FLOPs or bytes
};

/// A line for each kernel and a cell for each shape; all figures go to the file.
class Table {
 public:
  /// Rates are given in units of `unit_rate`, and as a share of `limit`.
  Table(std::FILE* csv, const char* unit, double unit_rate, double limit)
      : csv_(csv), unit_(unit), unit_rate_(unit_rate), limit_(limit) {}

  void line(const std::vector<Measurement>& cells) const {
    if (cells.empty()) return;
    const Measurement& first = cells.front();
    std::printf("%-6s %-8s %-6s D %3lld %s", first.kernel, first.pass, first.mask,
                static_cast<long long>(first.head_dim), unit_);
    for (const Measurement& cell : cells) {
      const double rate = cell.amount / cell.times.median;
      std::printf("  %5.0f (%2.0f%%)", rate / unit_rate_, 100.0 * rate / limit_);
      write(cell, rate);
    }
    std::printf("\n");
    std::fflush(stdout);
  }

  static void write_header(std::FILE* csv) {
    if (csv == nullptr) return;
    std::fprintf(csv,
                 "kernel,pass,mask,head_dim,length,batch,median_ms,min_ms,max_ms,samples,rate,unit,"
                 "share_of_limit\n");
  }

 private:
  void write(const Measurement& cell, double rate) const {
    if (csv_ == nullptr) return;
    const Times& times = cell.times;
    std::fprintf(csv_, "%s,%s,%s,%lld,%lld,%lld,%.6f,%.6f,%.6f,%d,%.3f,%s,%.4f\n", cell.kernel,
                 cell.pass, cell.mask, static_cast<long long>(cell.head_dim),
                 static_cast<long long>(cell.length), static_cast<long long>(cell.batch),
                 times.median * 1e3, times.least * 1e3, times.most * 1e3, times.samples,
                 rate / unit_rate_, unit_, rate / limit_);
  }

  std::FILE* csv_;
  const char* unit_;
  double unit_rate_;
  double limit_;
};

/// Adds one length to the lines of both passes, if it is served.
void measure_attention(int architecture, std::int64_t head_dim, bool causal, std::int64_t length,
                       std::vector<Measurement>& forward, std::vector<Measurement>& backward) {
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
  const auto times_of = [&](int (*launch)(const PortolanAttention*)) {
    return measure([&](int i) {
      const OperandSet& set = sets[static_cast<std::size_t>(i % kSets)];
      check(static_cast<cudaError_t>(launch(&set.attention())), "starting attention");
    });
  };
  Measurement cell{.kernel = architecture == 90 ? "sm90" : "sm80",
                   .pass = "forward",
                   .mask = causal ? "causal" : "full",
                   .head_dim = head_dim,
                   .length = length,
                   .batch = shape.batch};
  cell.times = times_of(portolan_attention_forward);
  cell.amount = 4.0 * scores * static_cast<double>(head_dim);
  forward.push_back(cell);
  cell.pass = "backward";
  cell.times = times_of(portolan_attention_backward);
  cell.amount = 10.0 * scores * static_cast<double>(head_dim);
  backward.push_back(cell);
}

/// One query for each of `batch` sequences, 32 query heads on 8 key/value heads.
Measurement measure_decoding(std::int64_t batch, std::int64_t key_tokens, std::int64_t head_dim) {
  const cuda::AttentionShape shape{.batch = batch,
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
  return {.kernel = "decode",
          .pass = "forward",
          .mask = "causal",
          .head_dim = head_dim,
          .length = key_tokens,
          .batch = batch,
          .times = times,
          .amount = static_cast<double>(cuda::decode_bytes(shape))};
}

void attention_lines(const Table& table, int architecture,
                     const std::vector<std::int64_t>& lengths) {
  for (const std::int64_t head_dim : {128, 64}) {
    for (const bool causal : {true, false}) {
      std::vector<Measurement> forward;
      std::vector<Measurement> backward;
      for (const std::int64_t length : lengths) {
        measure_attention(architecture, head_dim, causal, length, forward, backward);
      }
      table.line(forward);
      table.line(backward);
    }
  }
}

void decode_lines(const Table& table) {
  const std::vector<std::int64_t> lengths{1024, 8192, 65536};
  std::printf("decoding, keys 1024, 8192, 65536 (as far as memory goes), batch 1, 8, 64:\n");
  for (const std::int64_t head_dim : {128, 64}) {
    for (const std::int64_t batch : {1, 8, 64}) {
      std::vector<Measurement> cells;
      for (const std::int64_t key_tokens : lengths) {
        if (batch * key_tokens <= 64 * 8192) {
          cells.push_back(measure_decoding(batch, key_tokens, head_dim));
        }
      }
      table.line(cells);
    }
  }
}

int run(bool quick, std::FILE* csv) {
  int device = 0;
  cudaDeviceProp properties{};
  check(cudaGetDevice(&device), "asking for the GPU");
  check(cudaGetDeviceProperties(&properties, device), "asking for the GPU's properties");
  const Limits limits{.product_rate = measure_product_rate(), .copy_rate = measure_copy_rate()};
  std::printf("%s; limits measured now: bf16 product by cuBLASLt %.0f TFLOP/s, copy %.0f GB/s\n",
              properties.name, limits.product_rate * 1e-12, limits.copy_rate * 1e-9);
  Table::write_header(csv);
  const std::vector<std::int64_t> lengths =
      quick ? std::vector<std::int64_t>{2048, 8192}
            : std::vector<std::int64_t>{512, 1024, 2048, 4096, 8192, 16384};
  std::printf("attention, %lld tokens in all, lengths", static_cast<long long>(kTokens));
  for (const std::int64_t length : lengths) std::printf(" %lld", static_cast<long long>(length));
  std::printf(":\n");
  const Table attention(csv, "TFLOP/s", 1e12, limits.product_rate);
  if (properties.major == 9 && properties.minor == 0) attention_lines(attention, 90, lengths);
  attention_lines(attention, 80, lengths);
  decode_lines(Table(csv, "GB/s", 1e9, limits.copy_rate));
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
