// SPDX-License-Identifier: Apache-2.0
// The fused kernels of the CUDA backend on a GPU, without the rest of the engine: each case beside
// the reference in f64, twice with the same bits, and its speed beside that of a plain copy.
//
//   nvcc -std=c++20 -O3 -arch=native --expt-relaxed-constexpr -I. tests/cuda/fused_kernels.cu
//        backends/cuda/*_kernels.cu tests/reference/{ops,quantization,training}_reference.cpp -o
//        fused_kernels
//
// Prints one line per case; exits 1 if one failed, 2 where there is no GPU.
#include <cuda_runtime.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "backends/cuda/elementwise_kernels.hpp"
#include "backends/cuda/norm_kernels.hpp"
#include "backends/cuda/quantized_kernels.hpp"
#include "tests/cuda/kernel_report.hpp"
#include "tests/cuda/rotary_checks.hpp"
#include "tests/reference/ops_reference.hpp"
#include "tests/reference/quantization_reference.hpp"
#include "tests/reference/training_reference.hpp"

namespace portolan::cuda {
namespace {

struct Extents {
  std::int64_t rows;
  std::int64_t columns;
};

/// Padded rows, parameters in f32 or the dtype; all of rms_norm, layer_norm and their sums.
void check_norm(Report& report, DType dtype, DType parameters, const Extents& extents) {
  const auto [rows, columns] = extents;
  const std::int64_t stride = columns + vector_elements(dtype);
  const auto padded = [&](std::uint64_t seed) {
    return random_values(static_cast<std::size_t>(rows * stride), dtype, seed);
  };
  const auto dense = [&](const Values& values) {
    Values result;
    for (std::int64_t row = 0; row < rows; ++row) {
      result.insert(result.end(), values.begin() + row * stride,
                    values.begin() + row * stride + columns);
    }
    return result;
  };
  const auto count = static_cast<std::size_t>(columns);
  const Values x = padded(1);
  const Values before = padded(2);
  const Values weight = random_values(count, parameters, 3);
  const Values bias = random_values(count, parameters, 4);
  const Values shift = random_values(count, parameters, 5);
  const Buffer x_memory(encode(x, dtype));
  const Buffer weight_memory(encode(weight, parameters));
  const Buffer bias_memory(encode(bias, parameters));
  const Buffer shift_memory(encode(shift, parameters));
  for (const bool centred : {false, true}) {
    for (const bool adds : {false, true}) {
      Buffer residual(encode(before, dtype));
      const Buffer out(encode(Values(x.size(), std::nan("")), dtype));
      const NormArguments arguments{.x = x_memory.get(),
                                    .residual = adds ? residual.get() : nullptr,
                                    .out = out.get(),
                                    .weight = weight_memory.get(),
                                    .bias = centred ? bias_memory.get() : nullptr,
                                    .x_bias = centred && adds ? shift_memory.get() : nullptr,
                                    .x_stride = stride,
                                    .residual_stride = stride,
                                    .out_stride = stride,
                                    .rows = rows,
                                    .features = columns,
                                    .epsilon = 1e-5F,
                                    .dtype = dtype,
                                    .parameter_dtype = parameters};
      const auto launch = [&] {
        return centred ? launch_layer_norm(arguments, nullptr)
                       : launch_rms_norm(arguments, nullptr);
      };
      check(launch(), "a norm");
      const std::vector<std::byte> first = out.read();
      Values sum = dense(x);
      const std::string name = name_of(
          centred ? (adds ? "add_layer_norm" : "layer_norm") : (adds ? "add_rms_norm" : "rms_norm"),
          dtype, rows, columns);
      if (adds) {
        std::vector<Values> terms{dense(before), sum};
        if (centred) {
          terms.emplace_back();
          for (std::size_t i = 0; i < sum.size(); ++i) terms.back().push_back(shift[i % count]);
        }
        const Values stored = dense(decode(residual.read(), dtype));
        report.compare(name + " (sum)", dtype, stored, reference::sum(terms), 2.0);
        sum = stored;
        residual.write(encode(before, dtype));  // for the second run
      }
      const Values found = dense(decode(first, dtype));
      if (centred) {
        report.compare(name, dtype, found, reference::layer_norm(sum, weight, bias, 1e-5), 32.0);
      } else {
        report.compare(name, dtype, found, reference::rms_norm(sum, weight, 1e-5, rows), 16.0);
      }
      check(launch(), "a norm");
      report.same_bits(name, first, out.read());
    }
  }
}

void check_activations(Report& report, DType dtype, const Extents& extents) {
  const auto [rows, columns] = extents;
  const auto count = static_cast<std::size_t>(rows * columns);
  const Values x = random_values(count, dtype, 6);
  const Values up = random_values(count, dtype, 7);
  const Buffer x_memory(encode(x, dtype));
  const Buffer up_memory(encode(up, dtype));
  const Buffer out(encode(Values(count, std::nan("")), dtype));
  ActivationArguments arguments{.x = x_memory.get(),
                                .up = up_memory.get(),
                                .out = out.get(),
                                .x_stride = columns,
                                .up_stride = columns,
                                .out_stride = columns,
                                .rows = rows,
                                .features = columns,
                                .dtype = dtype};
  check(launch_swiglu(arguments, nullptr), "swiglu");
  report.compare(name_of("swiglu", dtype, rows, columns), dtype, decode(out.read(), dtype),
                 reference::swiglu(x, up), 16.0);
  check(launch_gelu(arguments, GeluKind::erf, nullptr), "gelu");
  report.compare(name_of("gelu erf", dtype, rows, columns), dtype, decode(out.read(), dtype),
                 reference::gelu(x, reference::Gelu::erf), 64.0);
  check(launch_gelu(arguments, GeluKind::tanh, nullptr), "gelu");
  report.compare(name_of("gelu tanh", dtype, rows, columns), dtype, decode(out.read(), dtype),
                 reference::gelu(x, reference::Gelu::tanh), 64.0);
}

void check_merge(Report& report, std::int64_t batch, std::int64_t tokens, std::int64_t heads,
                 std::int64_t head_dim) {
  const auto rows = static_cast<std::size_t>(batch * tokens * heads);
  const auto count = rows * static_cast<std::size_t>(head_dim);
  // Every third row saw no key on one side, every sixth on neither.
  const auto sums = [&](std::uint64_t seed, std::size_t period) {
    Values values = random_values(rows, DType::f32, seed);
    for (std::size_t i = 0; i < rows; i += period) values[i] = -HUGE_VAL;
    return values;
  };
  const reference::PartialAttention mine{random_values(count, DType::f32, 11), sums(12, 3)};
  const reference::PartialAttention block{random_values(count, DType::f32, 13), sums(14, 2)};
  const Buffer out(encode(mine.out, DType::f32));
  const Buffer log_sum_exp(encode(mine.log_sum_exp, DType::f32));
  const Buffer block_out(encode(block.out, DType::f32));
  const Buffer block_log_sum_exp(encode(block.log_sum_exp, DType::f32));
  check(launch_merge_attention({.block_out = static_cast<float*>(block_out.get()),
                                .block_log_sum_exp = static_cast<float*>(block_log_sum_exp.get()),
                                .out = static_cast<float*>(out.get()),
                                .log_sum_exp = static_cast<float*>(log_sum_exp.get()),
                                .batch = batch,
                                .tokens = tokens,
                                .heads = heads,
                                .head_dim = head_dim},
                               nullptr),
        "merge_attention");
  const reference::PartialAttention expected =
      reference::merge_attention(mine, block, batch, tokens, heads, head_dim);
  // Inputs are at most 4; differences of log-sum-exps lose a few units in the last place.
  const std::string name = name_of("merge_attention", DType::f32, batch * tokens * heads, head_dim);
  report.compare(name, DType::f32, decode(out.read(), DType::f32),
                 Sums{expected.out, Values(count, 4.0)}, 32.0);
  Values found = decode(log_sum_exp.read(), DType::f32);
  Values wanted = expected.log_sum_exp;
  for (std::size_t i = 0; i < rows; ++i) {  // infinities have no difference
    if (found[i] == wanted[i]) found[i] = wanted[i] = 0.0;
  }
  report.compare(name + " (sum)", DType::f32, found, Sums{wanted, Values(rows, 4.0)}, 8.0);
}

/// Where the parts of a panel lie; the data is for the caller to set.
QuantizedPanels panel_layout(Quantization quantization, std::int64_t in_features) {
  return {.place = QuantizedPanel(in_features, quantization),
          .in_features = in_features,
          .quantization = quantization};
}

void check_quantized(Report& report, DType dtype, Quantization quantization, std::int64_t rows,
                     std::int64_t in_features, std::int64_t out_features) {
  const bool accumulate = rows % 2 == 0;
  const auto count = [](std::int64_t a, std::int64_t b) { return static_cast<std::size_t>(a * b); };
  const Values x = random_values(count(rows, in_features), dtype, 15);
  const Values weight = random_values(count(out_features, in_features), dtype, 16);
  const Values before = random_values(count(rows, out_features), dtype, 17);
  const reference::QuantizedMatrix matrix = reference::quantize(
      weight, out_features, in_features, quantization == Quantization::int4 ? 4 : 8);
  std::vector<std::byte> bytes(matrix.panels.size());
  std::memcpy(bytes.data(), matrix.panels.data(), bytes.size());
  const Buffer panels(bytes);
  const Buffer x_memory(encode(x, dtype));
  Buffer out(encode(accumulate ? before : Values(before.size(), std::nan("")), dtype));
  QuantizedArguments arguments;
  arguments.weight = panel_layout(quantization, in_features);
  arguments.weight.data = static_cast<std::byte*>(panels.get());
  arguments.x = x_memory.get();
  arguments.out = out.get();
  arguments.x_stride = in_features;
  arguments.out_stride = out_features;
  arguments.rows = rows;
  arguments.out_features = out_features;
  arguments.dtype = arguments.out_dtype = dtype;
  arguments.accumulate = accumulate;
  check(launch_quantized_rows(arguments, nullptr), "a product");
  const std::string name =
      name_of(quantization == Quantization::int4 ? "int4 product" : "int8 product", dtype, rows,
              out_features);
  report.compare(name + " of " + std::to_string(in_features), dtype, decode(out.read(), dtype),
                 reference::matmul(x, matrix.values, rows, in_features, out_features,
                                   accumulate ? before : Values()),
                 32.0);

  // The same weight as numbers, and its scales on sums of 1.
  const std::int64_t panels_across = panel_count(out_features);
  const std::int64_t width = panels_across * kPanelOutputs;
  const Buffer wide(count(in_features, width) * size_of(dtype));
  check(launch_widen(arguments.weight, panels_across, wide.get(), width, dtype, nullptr),
        "widening");
  const Values ones(count(1, out_features), 1.0);
  const Buffer sums(encode(ones, DType::f32));
  const Buffer scaled(ones.size() * sizeof(float));
  check(launch_scale({.weight = arguments.weight,
                      .sums = static_cast<float*>(sums.get()),
                      .out = scaled.get(),
                      .sums_stride = out_features,
                      .out_stride = out_features,
                      .rows = 1,
                      .columns = out_features},
                     nullptr),
        "scaling");
  const Values numbers = decode(wide.read(), dtype);
  const Values scales = decode(scaled.read(), DType::f32);
  Values found(matrix.values.size());
  for (std::int64_t o = 0; o < out_features; ++o) {
    for (std::int64_t i = 0; i < in_features; ++i) {
      found[count(o, in_features) + static_cast<std::size_t>(i)] =
          numbers[count(i, width) + static_cast<std::size_t>(o)] *
          scales[static_cast<std::size_t>(o)];
    }
  }
  report.compare(name + " widened", DType::f32, found, matrix.values, 2.0);
}

void time_quantized(Report& report, Quantization quantization, std::int64_t rows) {
  constexpr std::int64_t kFeatures = 8192;
  QuantizedArguments arguments;
  arguments.weight = panel_layout(quantization, kFeatures);
  const std::int64_t bytes = kFeatures / kPanelOutputs * arguments.weight.place.bytes;
  // Several matrices in turn, together larger than the GPU's cache.
  constexpr int kMatrices = 8;
  const Buffer panels(static_cast<std::size_t>(bytes * kMatrices));
  const Buffer x(static_cast<std::size_t>(rows * kFeatures * 2));
  const Buffer out(static_cast<std::size_t>(rows * kFeatures * 2));
  arguments.x = x.get();
  arguments.out = out.get();
  arguments.x_stride = arguments.out_stride = arguments.out_features = kFeatures;
  arguments.rows = rows;
  arguments.dtype = arguments.out_dtype = DType::bf16;
  int turn = 0;
  report.speed(name_of(quantization == Quantization::int4 ? "int4 product" : "int8 product",
                       DType::bf16, rows, kFeatures),
               static_cast<double>(bytes), [&] {
                 arguments.weight.data = static_cast<std::byte*>(panels.get()) + bytes * turn;
                 turn = (turn + 1) % kMatrices;
                 return launch_quantized_rows(arguments, nullptr);
               });
}

void time_all(Report& report, DType dtype) {
  constexpr std::int64_t kRows = 16'384;
  constexpr std::int64_t kColumns = 4096;
  constexpr std::int64_t kHeadDim = 128;
  const auto element = static_cast<std::int64_t>(size_of(dtype));
  const auto matrix = static_cast<double>(kRows * kColumns * element);
  const Buffer a(kRows * kColumns * element);
  const Buffer b(kRows * kColumns * element);
  const Buffer c(kRows * kColumns * element);
  const Buffer weight(kColumns * 4);
  const Buffer table(kRows * kHeadDim * 2);
  const Buffer positions(kRows * 4);
  for (const std::int64_t rows : {kRows, std::int64_t{1}}) {
    const double part = matrix * static_cast<double>(rows) / kRows;
    const NormArguments norm{.x = a.get(),
                             .residual = b.get(),
                             .out = c.get(),
                             .weight = weight.get(),
                             .x_stride = kColumns,
                             .residual_stride = kColumns,
                             .out_stride = kColumns,
                             .rows = rows,
                             .features = kColumns,
                             .epsilon = 1e-5F,
                             .dtype = dtype,
                             .parameter_dtype = DType::f32};
    report.speed(name_of("add_rms_norm", dtype, rows, kColumns), 4.0 * part,
                 [&] { return launch_rms_norm(norm, nullptr); });
    const ActivationArguments activation{.x = a.get(),
                                         .up = b.get(),
                                         .out = c.get(),
                                         .x_stride = kColumns,
                                         .up_stride = kColumns,
                                         .out_stride = kColumns,
                                         .rows = rows,
                                         .features = kColumns,
                                         .dtype = dtype};
    report.speed(name_of("swiglu", dtype, rows, kColumns), 3.0 * part,
                 [&] { return launch_swiglu(activation, nullptr); });
    report.speed(name_of("gelu erf", dtype, rows, kColumns), 2.0 * part,
                 [&] { return launch_gelu(activation, GeluKind::erf, nullptr); });
    const RotaryArguments rotary{.x = a.get(),
                                 .positions = static_cast<std::int32_t*>(positions.get()),
                                 .cosines = static_cast<float*>(table.get()),
                                 .sines = static_cast<float*>(table.get()),
                                 .token_stride = kColumns,
                                 .head_stride = kHeadDim,
                                 .positions_stride = 1,
                                 .cosine_stride = kHeadDim / 2,
                                 .sine_stride = kHeadDim / 2,
                                 .tokens = rows,
                                 .heads = kColumns / kHeadDim,
                                 .head_dim = kHeadDim,
                                 .dtype = dtype};
    report.speed(name_of("rotary_embedding", dtype, rows, kColumns), 2.0 * part,
                 [&] { return launch_rotary_embedding(rotary, nullptr); });
    portolan::portable::StridedRows<2> strided;
    strided.outer_rank = 1;
    strided.rows = strided.extents[0] = rows * 2;
    strided.columns = kColumns / 4;
    strided.strides[0][0] = strided.strides[1][0] = kColumns / 2;
    strided.column_stride[0] = strided.column_stride[1] = 1;
    const CopyPlan plan = copy_plan(strided, a.get(), c.get(), element);
    report.speed(name_of("copy of half of each row", dtype, rows, kColumns), part,
                 [&] { return launch_copy(plan, a.get(), c.get(), nullptr); });
  }
}

int run() {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    std::fprintf(stderr, "fused_kernels: no GPU was found\n");
    return 2;
  }
  Report report;
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
    for (const Extents& extents :
         {Extents{1, 8}, {3, 64}, {5, 264}, {2, 4096}, {3, 8192}, {2, 16'384}, {300, 1000}}) {
      check_norm(report, dtype, dtype, extents);
      if (dtype != DType::f32) check_norm(report, dtype, DType::f32, extents);
      check_activations(report, dtype, extents);
    }
    check_rotary(report, dtype, 1, 1, 16);
    check_rotary(report, dtype, 7, 40, 128);
    check_rotary(report, dtype, 5, 9, 80);
    check_rotary(report, dtype, 3, 71, 64);
    check_rotary(report, dtype, 2, 3, 256);
    check_cache_rows(report, dtype, 1, 1, 16);
    check_cache_rows(report, dtype, 32, 8, 128);
    check_cache_rows(report, dtype, 71, 1, 64);
  }
  check_merge(report, 2, 5, 3, 128);
  check_merge(report, 1, 1, 1, 64);
  check_merge(report, 3, 7, 9, 20);
  for (const Quantization quantization : {Quantization::int8, Quantization::int4}) {
    for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
      check_quantized(report, dtype, quantization, 1, 8, 1);
      check_quantized(report, dtype, quantization, 1, 1104, 70);
      check_quantized(report, dtype, quantization, 2, 520, 193);
      check_quantized(report, dtype, quantization, 3, 4096, 256);
      check_quantized(report, dtype, quantization, 8, 96, 130);
    }
    for (const std::int64_t rows : {1, 4, 8}) time_quantized(report, quantization, rows);
  }
  for (const DType dtype : {DType::f32, DType::bf16}) time_all(report, dtype);
  std::printf("%d failures\n", report.failures());
  return report.failures() == 0 ? 0 : 1;
}

}  // namespace
}  // namespace portolan::cuda

int main() { return portolan::cuda::run(); }
